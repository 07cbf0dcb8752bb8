//go:build !unix

package main

import "os"

// stopSignals end a command in an orderly way.
var stopSignals = []os.Signal{os.Interrupt}

// wasInherited reports whether a file descriptor was open when the program started, which is not known here.
func wasInherited(fd int) bool { return true }
