package engine

// For tests of package engine_test.
var NoLeaks = noLeaks
