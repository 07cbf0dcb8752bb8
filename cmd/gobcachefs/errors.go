package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
)

// A cliError says what could not be done, where, why and what to do about it; all but the first may be missing.
type cliError struct {
	what, where string
	err         error
	todo        string
}

func (e *cliError) Error() string {
	parts := []string{e.what}
	cause := ""
	if e.err != nil {
		cause = causeText(e.err)
	}
	if e.where != "" && !strings.HasPrefix(cause, e.where+": ") { // the cause may say where as well
		parts = append(parts, e.where)
	}
	if cause != "" {
		parts = append(parts, cause)
	}
	if e.todo != "" {
		parts = append(parts, e.todo)
	}
	return strings.Join(parts, ": ")
}

func (e *cliError) Unwrap() error { return e.err }

// failed is the error of doing what at where.
func failed(what, where string, err error) error {
	return &cliError{what: what, where: where, err: err}
}

// failedTodo is failed with advice.
func failedTodo(what, where string, err error, todo string) error {
	return &cliError{what: what, where: where, err: err, todo: todo}
}

// A usageError is the caller's: the command line makes no sense.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// causeText is the text of err without the path that io/fs and os repeat in theirs.
func causeText(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) && pe == err {
		return causeText(pe.Err)
	}
	return err.Error()
}

// exit reports err, if any, in one line and returns the exit code for it.
func (a *app) exit(err error) int {
	if err == nil {
		return exitOK
	}
	var usage *usageError
	if errors.As(err, &usage) || !a.started {
		a.report(err)
		return exitUsage
	}
	var code *exitError
	switch {
	case errors.Is(err, errPartial), errors.As(err, &code):
	case errors.Is(err, syscall.EPIPE): // the reader has seen enough
	case errors.Is(err, context.Canceled):
		a.report(errors.New("interrupted"))
	default:
		a.report(err)
	}
	return exitFailed
}

// report writes one line about err to standard error.
func (a *app) report(err error) {
	fmt.Fprintf(a.err, "gobcachefs: %s\n", oneLine(err.Error()))
}

// warnf writes one line to standard error.
func (a *app) warnf(format string, args ...any) {
	fmt.Fprintf(a.err, "gobcachefs: %s\n", oneLine(fmt.Sprintf(format, args...)))
}

// oneLine replaces what would break or garble a line: newlines by "; ", other control characters by escapes.
func oneLine(s string) string {
	s = strings.TrimRight(s, "\n")
	s = strings.ReplaceAll(s, "\n", "; ")
	return visible(s)
}

// visible replaces control characters and bytes that are not UTF-8 by escapes, so that a name cannot act on a terminal.
func visible(s string) string {
	clean := true
	for _, r := range s {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0xfffd {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == 0xfffd && !strings.HasPrefix(s[i:], "\ufffd"), r < ' ', r == 0x7f:
			fmt.Fprintf(&b, "\\x%02x", s[i])
		case r >= 0x80 && r < 0xa0:
			fmt.Fprintf(&b, "\\u%04x", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
