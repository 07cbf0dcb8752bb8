//go:build !amd64 || purego

package crypt

// xorFast does nothing: the library is the quickest there is for this architecture.
func (k *Key) xorFast(Nonce, []byte) int { return 0 }
