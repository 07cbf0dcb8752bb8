//go:build !race

package racedemo

// maxPreemptions and randomSchedules bound what is explored in tests.
const maxPreemptions, randomSchedules = 2, 300
