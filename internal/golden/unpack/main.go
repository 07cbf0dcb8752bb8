// Command unpack decompresses a golden image, keeping its holes:
//
//	go run ./internal/golden/unpack IMAGE.zst IMAGE
package main

import (
	"fmt"
	"os"

	"github.com/go-bcachefs/bcachefs/internal/golden/sparse"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: unpack IMAGE.zst IMAGE")
		os.Exit(2)
	}
	if err := sparse.Unzstd(os.Args[2], os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "unpack:", err)
		os.Exit(1)
	}
}
