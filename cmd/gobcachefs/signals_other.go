//go:build !unix

package main

import "os"

// stopSignals end a command in an orderly way.
var stopSignals = []os.Signal{os.Interrupt}
