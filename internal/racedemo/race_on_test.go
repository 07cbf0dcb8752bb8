//go:build race

package racedemo

// maxPreemptions and randomSchedules bound what is explored in tests: under the race detector each schedule takes many times as long.
const maxPreemptions, randomSchedules = 1, 60
