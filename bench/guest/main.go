//go:build linux

// Command guest runs in the virtual machine that makes the filesystem for the benchmarks: it grows the mounted filesystem to
// the size of its device and fills it. See ../image.sh.
package main

import (
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("guest: ")
	dir := flag.String("dir", "/mnt", "where the filesystem is mounted")
	buckets := flag.Uint64("buckets", 0, "grow device 0 to this many buckets")
	large := flag.Int("large", 512, "MiB of the large file")
	packed := flag.Int("packed", 128, "MiB of each compressed file")
	small := flag.Int("small", 50000, "number of small files")
	flag.Parse()

	if *buckets > 0 {
		check(resize(*dir, *buckets))
	}
	check(write(filepath.Join(*dir, "large"), *large<<20, random))
	for _, alg := range []string{"lz4", "zstd", "gzip"} {
		d := filepath.Join(*dir, alg)
		check(os.Mkdir(d, 0o755))
		check(unix.Setxattr(d, "bcachefs.compression", []byte(alg), 0))
		check(write(filepath.Join(d, "packed"), *packed<<20, text))
	}
	for i := range *small {
		d := filepath.Join(*dir, "many", fmt.Sprint(i/500))
		if i%500 == 0 {
			check(os.MkdirAll(d, 0o755))
		}
		check(os.WriteFile(filepath.Join(d, fmt.Sprint("file-", i)), []byte("small"), 0o644))
	}
	unix.Sync()
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// write fills a file in pieces of 1 MiB.
func write(name string, size int, fill func(*rand.Rand, []byte)) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(1, uint64(size)))
	buf := make([]byte, 1<<20)
	for n := 0; n < size; n += len(buf) {
		fill(r, buf)
		if _, err := f.Write(buf); err != nil {
			return err
		}
	}
	return f.Close()
}

func random(r *rand.Rand, b []byte) {
	for i := 0; i+8 <= len(b); i += 8 {
		*(*uint64)(unsafe.Pointer(&b[i])) = r.Uint64()
	}
}

// text compresses about as well as prose: words of a small vocabulary.
func text(r *rand.Rand, b []byte) {
	const letters = "etaoinshrdlucmfwypvbgk"
	var words [512]string
	w := rand.New(rand.NewPCG(7, 7))
	for i := range words {
		word := make([]byte, 2+w.IntN(8))
		for j := range word {
			word[j] = letters[min(w.IntN(len(letters)), w.IntN(len(letters)))]
		}
		words[i] = string(word) + " "
	}
	for len(b) > 0 {
		b = b[copy(b, words[min(r.IntN(512), r.IntN(512))]):]
	}
}

// resize grows device 0 of the mounted filesystem (BCH_IOCTL_DISK_RESIZE of the driver).
func resize(dir string, buckets uint64) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	arg := struct {
		flags, pad uint32
		dev        uint64
		buckets    uint64
	}{flags: 1 << 4 /* by index */, buckets: buckets}
	const diskResize = 1<<30 | 24<<16 | 0xbc<<8 | 14
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), diskResize, uintptr(unsafe.Pointer(&arg))); e != 0 {
		return fmt.Errorf("resize to %d buckets: %w", buckets, e)
	}
	return nil
}
