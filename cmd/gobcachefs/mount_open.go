//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/syslog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/fusefs"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/engine"
)

// busyTime is how long a mount waits for devices that another process has open: the kernel lets go of a mount before whoever served it
// has written everything.
const busyTime = 10 * time.Second

// openMount opens the filesystem: for writing if it can be and was not asked otherwise.
func (m *mountCmd) openMount(ctx context.Context, source string, opts *mountOpts) (*bcachefs.FS, mountOptions, error) {
	mo, devs, nodes, err := m.prepare([]string{source})
	if err != nil {
		return nil, mo, err
	}
	extents, _ := parseSize(opts.extentCache) // were looked at before
	overlay, _ := parseSize(opts.overlay)
	where := strings.Join(devs, ":")
	ask := sync.OnceValues(func() ([]byte, error) { return m.passphrase(ctx, m.app, where) })
	open := bcachefs.OpenOptions{
		Passphrase:          func(context.Context) ([]byte, error) { return ask() },
		Degraded:            mo.degraded,
		VeryDegraded:        mo.veryDegraded,
		NoRecovery:          mo.noRecovery,
		Salvage:             mo.salvage || m.salvage,
		NoSplitBrainCheck:   mo.noSplitBrainCheck,
		ScanDirs:            m.scan,
		SuperblockSector:    mo.superblockSector,
		NodeCacheBytes:      nodes,
		ExtentCacheBytes:    extents,
		ForceEarlyAllocator: opts.earlyAllocator,
		Now:                 fusefs.Now,
	}
	if opts.fsck {
		if err := m.checkFirst(ctx, where, devs, open, opts); err != nil {
			return nil, mo, err
		}
	}
	if opts.noChanges {
		open.OpenDevice = func(path string) (bcachefs.Device, error) {
			d, err := blockdev.OpenFile(path, blockdev.FileOptions{ReadOnly: true})
			if err != nil {
				return nil, err
			}
			return blockdev.NewOverlay(d, overlay), nil
		}
	}
	f, err := m.openAsAsked(ctx, where, devs, open, opts)
	if err != nil {
		return nil, mo, openError("mount", where, devs, err)
	}
	m.addMembers(f.Engine())
	if !m.quiet {
		for _, msg := range f.Messages() {
			m.warnf("%s", msg)
		}
	}
	return f, mo, nil
}

// openAsAsked opens for writing, and if that cannot be and need not, for reading.
func (m *mountCmd) openAsAsked(ctx context.Context, where string, devs []string, open bcachefs.OpenOptions, opts *mountOpts) (*bcachefs.FS, error) {
	if opts.mode == readOnly {
		return bcachefs.Open(ctx, devs, &open)
	}
	writing := open
	writing.Write = true
	writing.Logf = m.log.printf
	f, err := bcachefs.Open(ctx, devs, &writing)
	for start := time.Now(); errors.Is(err, blockdev.ErrBusy) && time.Since(start) < busyTime && ctx.Err() == nil; {
		time.Sleep(50 * time.Millisecond)
		f, err = bcachefs.Open(ctx, devs, &writing)
	}
	switch {
	case err == nil, opts.mode == writeOrFail, ctx.Err() != nil, errors.Is(err, blockdev.ErrBusy),
		errors.Is(err, bcachefs.ErrPassphrase), errors.Is(err, bcachefs.ErrPassphraseNeeded), errors.Is(err, engine.ErrNoSuperblock):
		return f, err
	}
	f, readErr := bcachefs.Open(ctx, devs, &open)
	if readErr != nil {
		return nil, readErr
	}
	m.warnf("%s: mounted read-only: %v", where, err)
	return f, nil
}

// checkFirst checks the filesystem. One with errors is not written to.
func (m *mountCmd) checkFirst(ctx context.Context, where string, devs []string, open bcachefs.OpenOptions, opts *mountOpts) error {
	r, err := bcachefs.Check(ctx, devs, &open, &bcachefs.CheckOptions{MaxFindings: 1})
	if err != nil {
		return openError("check", where, devs, err)
	}
	if r.Total == 0 {
		return nil
	}
	todo := fmt.Sprintf("'gobcachefs fsck -n %s' lists them", where)
	if opts.mode == writeOrFail {
		return failedTodo("mount", where, fmt.Errorf("the check found %d errors", r.Total), todo)
	}
	if opts.mode == writeIfPossible {
		m.warnf("%s: mounted read-only: the check found %d errors: %s", where, r.Total, todo)
		opts.mode = readOnly
	} else {
		m.warnf("%s: the check found %d errors: %s", where, r.Total, todo)
	}
	return nil
}

// mountLog is where messages go while a filesystem is mounted: to standard error, and of a mount in the background to the system's log.
// Safe for concurrent use.
type mountLog struct {
	app *app

	mu     sync.Mutex
	ready  bool // what comes up when a filesystem is opened is told at the end of that
	system func(line string)
}

func (l *mountLog) printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ready {
		l.print(fmt.Sprintf(format, args...))
	}
}

func (l *mountLog) print(line string) {
	if l.system != nil {
		l.system(oneLine(line))
		return
	}
	l.app.warnf("%s", line)
}

// opened has messages told as they come.
func (l *mountLog) opened() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready = true
}

// toSystem has messages go to the system's log, as nobody is there to read them any more; each begins with prefix.
func (l *mountLog) toSystem(prefix string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_ERR, "gobcachefs"); err == nil {
		l.system = func(line string) { _ = w.Err(prefix + ": " + line) }
		return
	}
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
		l.system = func(line string) { fmt.Fprintf(f, "<3>gobcachefs: %s: %s\n", prefix, line) }
		return
	}
	l.system = func(string) {}
}
