package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// passphraseVar is the environment variable that a passphrase is taken from.
const passphraseVar = "BCACHEFS_PASSPHRASE"

// maxPassphrase bounds what is read from a passphrase file, in bytes.
const maxPassphrase = 64 << 10

// errNoPassphrase is returned when there is nowhere to get a passphrase from.
var errNoPassphrase = errors.New("no passphrase was given")

// passphrase gets the passphrase from where the flags say, else the environment, else the terminal.
func (o *openFlags) passphrase(ctx context.Context, a *app, where string) ([]byte, error) {
	switch {
	case o.passphraseFile != "":
		f, err := os.Open(o.passphraseFile)
		if err != nil {
			return nil, failed("read passphrase", o.passphraseFile, err)
		}
		defer f.Close()
		return readPassphrase(f, o.passphraseFile)
	case o.passphraseFD >= 0:
		if !wasInherited(o.passphraseFD) {
			return nil, failed("read passphrase", fmt.Sprintf("file descriptor %d", o.passphraseFD), errors.New("it is not open"))
		}
		if standard := []*os.File{os.Stdin, os.Stdout, os.Stderr}; o.passphraseFD < len(standard) {
			f := standard[o.passphraseFD] // not another File, which would close it when it is collected
			return readPassphrase(f, f.Name())
		}
		f := os.NewFile(uintptr(o.passphraseFD), fmt.Sprintf("file descriptor %d", o.passphraseFD))
		defer f.Close()
		return readPassphrase(f, f.Name())
	}
	if p := a.getenv(passphraseVar); p != "" {
		return []byte(p), nil
	}
	in, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, errNoPassphrase
	}
	return promptPassphrase(ctx, a, in, "Enter passphrase for "+visible(where)+": ")
}

// newPassphrase gets a passphrase to be set, from where the flags say, else an environment variable, else the terminal, where
// it is asked for twice.
func (o *openFlags) newPassphrase(ctx context.Context, a *app, variable string) ([]byte, error) {
	if o.passphraseFile != "" || o.passphraseFD >= 0 {
		return o.passphrase(ctx, a, "")
	}
	if p := a.getenv(variable); p != "" {
		return []byte(p), nil
	}
	in, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, errNoPassphrase
	}
	first, err := promptPassphrase(ctx, a, in, "Enter new passphrase: ")
	if err != nil {
		return nil, err
	}
	second, err := promptPassphrase(ctx, a, in, "Enter it again: ")
	switch {
	case err != nil:
		return nil, err
	case len(first) == 0:
		return nil, failed("read passphrase", "terminal", errors.New("it is empty"))
	case !bytes.Equal(first, second):
		return nil, failed("read passphrase", "terminal", errors.New("the two differ"))
	}
	clear(second)
	return first, nil
}

// readPassphrase reads the first line; a line end is not part of the passphrase.
func readPassphrase(r io.Reader, where string) ([]byte, error) {
	b, err := bufio.NewReader(io.LimitReader(r, maxPassphrase)).ReadBytes('\n')
	if err != nil && err != io.EOF {
		return nil, failed("read passphrase", where, err)
	}
	b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if len(b) == 0 {
		return nil, failed("read passphrase", where, errors.New("it is empty"))
	}
	return b, nil
}

// promptPassphrase asks on the terminal without echo. An interrupt restores the terminal.
func promptPassphrase(ctx context.Context, a *app, in *os.File, prompt string) ([]byte, error) {
	fd := int(in.Fd())
	state, err := term.GetState(fd)
	if err != nil {
		return nil, failed("read passphrase", "terminal", err)
	}
	fmt.Fprint(a.err, prompt)
	type answer struct {
		b   []byte
		err error
	}
	// The reader cannot be interrupted; when the context ends first the program is about to exit.
	got := make(chan answer, 1)
	go func() {
		b, err := term.ReadPassword(fd)
		got <- answer{b, err}
	}()
	select {
	case ans := <-got:
		fmt.Fprintln(a.err)
		if ans.err != nil {
			return nil, failed("read passphrase", "terminal", ans.err)
		}
		return ans.b, nil
	case <-ctx.Done():
		err := term.Restore(fd, state)
		fmt.Fprintln(a.err)
		return nil, errors.Join(ctx.Err(), err)
	}
}
