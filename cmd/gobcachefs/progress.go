package main

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// A progressBar tells on one line of a terminal how far a command is. It appears once the command has taken a second;
// without a terminal there is none. Its methods may be called from any number of goroutines.
type progressBar struct {
	app   *app
	what  string
	start time.Time

	mu    sync.Mutex
	total int64 // bytes, 0 if unknown
	files int
	bytes int64
	drawn time.Time
	width int // of what is drawn now
}

// How soon a bar appears and how often it is drawn.
const (
	progressAfter = time.Second
	progressEvery = 200 * time.Millisecond
)

// progress starts a bar; total is the number of bytes to come, 0 if that is not known. It is nil without a terminal,
// which its methods allow.
func (a *app) progress(what string, total int64) *progressBar {
	if !a.errTTY {
		return nil
	}
	return &progressBar{app: a, what: what, total: total, start: time.Now()}
}

// set tells the number of files and bytes that are done.
func (b *progressBar) set(files int, bytes int64) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.files, b.bytes = files, bytes
	b.draw()
}

// add tells of files and bytes that are done now.
func (b *progressBar) add(files int, bytes int64) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.files += files
	b.bytes += bytes
	b.draw()
}

func (b *progressBar) draw() {
	now := time.Now()
	elapsed := now.Sub(b.start)
	if elapsed < progressAfter || now.Sub(b.drawn) < progressEvery {
		return
	}
	b.drawn = now
	rate := float64(b.bytes) / elapsed.Seconds()
	s := fmt.Sprintf("%s: %d files, %s", b.what, b.files, humanSize(uint64(b.bytes)))
	if b.total > 0 {
		done := min(float64(b.bytes)/float64(b.total), 1)
		const cells = 24
		full := int(done * cells)
		s = fmt.Sprintf("%s: %3.0f%% [%s%s] %d files, %s of %s", b.what, done*100,
			strings.Repeat("#", full), strings.Repeat("-", cells-full), b.files, humanSize(uint64(b.bytes)), humanSize(uint64(b.total)))
	}
	s += fmt.Sprintf(", %s/s", humanSize(uint64(rate)))
	if b.total > b.bytes && rate > 0 {
		left := time.Duration(float64(b.total-b.bytes) / rate * float64(time.Second))
		if left < 1000*time.Hour {
			s += ", " + left.Round(time.Second).String() + " left"
		}
	}
	fmt.Fprintf(b.app.err, "\r%s%s", s, strings.Repeat(" ", max(b.width-len(s), 0)))
	b.width = len(s)
}

// clear removes what is drawn, so that a line can be written.
func (b *progressBar) clear() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.width > 0 {
		fmt.Fprintf(b.app.err, "\r%s\r", strings.Repeat(" ", b.width))
		b.width = 0
		b.drawn = time.Time{}
	}
}

// finish removes the bar.
func (b *progressBar) finish() { b.clear() }
