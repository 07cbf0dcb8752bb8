//go:build !unix

package kernelvm

import "errors"

func lock(string) (func(), error) { return nil, errors.New("no virtual machine on this system") }
