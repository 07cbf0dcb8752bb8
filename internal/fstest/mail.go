package fstest

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Mail delivers messages as to a maildir, from several goroutines: a file is made in tmp, written and fsynced, renamed into new, and the directory is
// fsynced: then it is delivered. Readers move it to cur, and some messages are deleted at last. After a crash all messages that were delivered are there, complete, in new or
// cur, unless their deletion had begun.
type Mail struct {
	FS      FS
	Dir     string // of its own; made by Run
	Seed    uint64
	Workers int        // 0: 4
	Clock   func() int // time of promises, nil: there is none

	Start int // the tick at which its directories were durable; set by Run

	mu   sync.Mutex
	sent map[string]*message
}

// message is what is known of one.
type message struct {
	size      int64
	tag       uint64
	delivered int // tick; 0: not yet
	deleting  bool
}

// Run delivers n messages.
func (m *Mail) Run(ctx context.Context, n int) error {
	set(&m.Workers, 4)
	m.sent = map[string]*message{}
	for _, d := range []string{"", "/tmp", "/new", "/cur"} {
		if err := m.FS.Mkdir(m.Dir+d, 0o755); err != nil {
			return err
		}
	}
	if err := m.FS.Sync(); err != nil {
		return err
	}
	if m.Clock != nil {
		m.Start = m.Clock()
	}
	g, ctx := errgroup.WithContext(ctx)
	for w := range m.Workers {
		g.Go(func() error {
			rng := newRand(m.Seed, 200+uint64(w))
			var mine []string // in cur
			for i := range n / m.Workers {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				name := fmt.Sprintf("%d.%d", w, i)
				size := 200 + rng.Int64N(30000)>>rng.IntN(5)
				if err := m.deliver(name, size); err != nil {
					return fmt.Errorf("mail, seed %d: delivering %s: %w", m.Seed, name, err)
				}
				if rng.IntN(3) == 0 {
					if err := m.FS.Rename(m.Dir+"/new/"+name, m.Dir+"/cur/"+name, 0); err != nil {
						return err
					}
					mine = append(mine, name)
				}
				if len(mine) > 3 {
					if err := m.remove(mine[0]); err != nil {
						return err
					}
					mine = mine[1:]
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func (m *Mail) deliver(name string, size int64) error {
	msg := &message{size: size, tag: mix(m.Seed ^ hash([]byte(name)))}
	m.mu.Lock()
	m.sent[name] = msg
	m.mu.Unlock()
	f, err := m.FS.Open(m.Dir+"/tmp/"+name, OpenCreate|OpenExclusive, 0o600)
	if err != nil {
		return err
	}
	err = writeFull(f, pattern(msg.tag, 0, size), 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = m.FS.Rename(m.Dir+"/tmp/"+name, m.Dir+"/new/"+name, 0)
	}
	if err == nil {
		err = m.FS.SyncDir(m.Dir + "/new")
	}
	if err == nil && m.Clock != nil {
		m.mu.Lock()
		msg.delivered = m.Clock()
		m.mu.Unlock()
	}
	return err
}

func (m *Mail) remove(name string) error {
	m.mu.Lock()
	m.sent[name].deleting = true
	m.mu.Unlock()
	return m.FS.Unlink(m.Dir + "/cur/" + name)
}

// Verify says what is wrong with the messages as a crash at a tick has left them; a tick less than 0 is after everything.
func (m *Mail) Verify(fs FS, tick int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	found := map[string]string{}
	for _, d := range []string{"new", "cur"} {
		list, err := fs.ReadDir(m.Dir + "/" + d)
		if err != nil {
			return fmt.Errorf("mail, seed %d: %w", m.Seed, err)
		}
		for _, e := range list {
			if found[e.Name] != "" {
				return fmt.Errorf("mail, seed %d: %s is in new and in cur", m.Seed, e.Name)
			}
			found[e.Name] = m.Dir + "/" + d + "/" + e.Name
		}
	}
	for name, msg := range m.sent {
		p := found[name]
		if p == "" {
			if msg.delivered > 0 && (tick < 0 || msg.delivered <= tick) && !msg.deleting {
				return fmt.Errorf("mail, seed %d: %s was delivered at tick %d and is lost", m.Seed, name, msg.delivered)
			}
			continue
		}
		// It was fsynced before it came here, so it is complete, promised or not.
		f, err := fs.Open(p, OpenReadOnly, 0)
		if err != nil {
			return err
		}
		got, err := content(f)
		f.Close()
		if err != nil {
			return err
		}
		if at, n := firstDifference(pattern(msg.tag, 0, msg.size), got); at >= 0 {
			return fmt.Errorf("mail, seed %d: %s has %d bytes, not %d; from %#x on %d differ", m.Seed, name, len(got), msg.size, at, n)
		}
	}
	return nil
}
