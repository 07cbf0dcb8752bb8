package fstest

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
)

// Database writes as a database with a write-ahead log does. A transaction is appended to the log, with its number and a checksum, and the log is fsynced:
// then it is committed. Now and then the pages that transactions changed are written into the table in place and fsynced, and a new log replaces the old one by
// rename and fsync of the directory. After a crash all committed transactions are in the table and the log, and nothing that never was.
type Database struct {
	FS    FS
	Dir   string // of its own; made by Run
	Seed  uint64
	Pages int        // 0: 64
	Clock func() int // time of promises, nil: there is none

	mu      sync.Mutex
	commits []commit
	pages   [][]uint64 // by page: the transactions that changed it, in order
}

// commit says that a transaction is durable from a tick on.
type commit struct {
	tick int
	n    uint64
}

const (
	pageBytes    = 16 << 10
	logRecord    = 512
	checkpointAt = 24 // transactions in a log
)

// fillPage makes a page as a transaction leaves it.
func fillPage(p []byte, page int, tx uint64) {
	fill(p, mix(tx)^uint64(page), 0)
	binary.LittleEndian.PutUint64(p, tx)
	binary.LittleEndian.PutUint64(p[8:], uint64(page))
}

// fillRecord makes the log's record of a transaction: its number and pages, and a checksum.
func fillRecord(p []byte, tx uint64, pages []int) {
	clear(p)
	binary.LittleEndian.PutUint64(p[8:], tx)
	binary.LittleEndian.PutUint64(p[16:], uint64(len(pages)))
	for i, page := range pages {
		binary.LittleEndian.PutUint64(p[24+8*i:], uint64(page))
	}
	binary.LittleEndian.PutUint64(p, hash(p[8:]))
}

// readRecord reads a record of the log; ok is false behind the last one.
func readRecord(p []byte) (tx uint64, pages []int, ok bool) {
	if binary.LittleEndian.Uint64(p) != hash(p[8:]) {
		return 0, nil, false
	}
	n := binary.LittleEndian.Uint64(p[16:])
	if n > (logRecord-24)/8 {
		return 0, nil, false
	}
	for i := range n {
		pages = append(pages, int(binary.LittleEndian.Uint64(p[24+8*i:])))
	}
	return binary.LittleEndian.Uint64(p[8:]), pages, true
}

// Run makes n transactions in a new database.
func (d *Database) Run(n int) error {
	set(&d.Pages, 64)
	d.pages = make([][]uint64, d.Pages)
	if err := d.FS.Mkdir(d.Dir, 0o755); err != nil {
		return err
	}
	table, err := d.FS.Open(d.Dir+"/table", OpenCreate, 0o600)
	if err != nil {
		return err
	}
	defer table.Close()
	log, err := d.newLog("log")
	if err != nil {
		return err
	}
	defer func() { log.Close() }()
	for _, dir := range []string{d.Dir, "."} {
		if err := d.FS.SyncDir(dir); err != nil {
			return err
		}
	}
	rng := newRand(d.Seed, 4)
	var waiting []int // pages that are in the log only
	inLog := 0
	for tx := uint64(1); tx <= uint64(n); tx++ {
		pages := d.choose(rng)
		if err := d.commit(log, inLog, tx, pages); err != nil {
			return fmt.Errorf("database, seed %d, transaction %d: %w", d.Seed, tx, err)
		}
		waiting = append(waiting, pages...)
		if inLog++; inLog < checkpointAt {
			continue
		}
		next, err := d.checkpoint(table, waiting)
		if err != nil {
			return fmt.Errorf("database, seed %d, checkpoint after transaction %d: %w", d.Seed, tx, err)
		}
		log.Close()
		log, inLog, waiting = next, 0, nil
	}
	return nil
}

func (d *Database) newLog(name string) (File, error) {
	f, err := d.FS.Open(d.Dir+"/"+name, OpenCreate|OpenTruncate, 0o600)
	if err != nil {
		return nil, err
	}
	return f, f.Sync()
}

func (d *Database) choose(rng *rand.Rand) []int {
	var pages []int
	for range 1 + rng.IntN(4) {
		pages = append(pages, rng.IntN(d.Pages))
	}
	return pages
}

// commit appends to the log.
func (d *Database) commit(log File, inLog int, tx uint64, pages []int) error {
	d.mu.Lock()
	for _, p := range pages {
		d.pages[p] = append(d.pages[p], tx)
	}
	d.mu.Unlock()
	rec := make([]byte, logRecord)
	fillRecord(rec, tx, pages)
	if err := writeFull(log, rec, int64(inLog)*logRecord); err != nil {
		return err
	}
	if err := log.SyncData(); err != nil {
		return err
	}
	if d.Clock != nil {
		d.mu.Lock()
		d.commits = append(d.commits, commit{d.Clock(), tx})
		d.mu.Unlock()
	}
	return nil
}

// checkpoint writes pages into the table, and makes a new log.
func (d *Database) checkpoint(table File, pages []int) (File, error) {
	p := make([]byte, pageBytes)
	for _, page := range pages {
		all := d.pages[page]
		fillPage(p, page, all[len(all)-1])
		// In pieces of 4 to 16 KiB, as databases do.
		piece := int64(4096) << (uint64(page) % 3)
		for off := int64(0); off < pageBytes; off += piece {
			if err := writeFull(table, p[off:off+piece], int64(page)*pageBytes+off); err != nil {
				return nil, err
			}
		}
	}
	if err := table.Sync(); err != nil {
		return nil, err
	}
	next, err := d.newLog("log.new")
	if err != nil {
		return nil, err
	}
	if err := d.FS.Rename(d.Dir+"/log.new", d.Dir+"/log", 0); err != nil {
		return nil, err
	}
	return next, d.FS.SyncDir(d.Dir)
}

// Verify says what is wrong with the database as a crash at a tick has left it; a tick less than 0 is after everything.
func (d *Database) Verify(fs FS, tick int) error {
	promised := uint64(0)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.commits {
		if tick < 0 || c.tick <= tick {
			promised = c.n
		}
	}
	if promised == 0 {
		return nil // the database itself may not be there
	}
	logged, newest, err := d.readLog(fs)
	if err != nil {
		return fmt.Errorf("database, seed %d: %w", d.Seed, err)
	}
	table, err := fs.Open(d.Dir+"/table", OpenReadOnly, 0)
	if err != nil {
		return err
	}
	defer table.Close()
	for page, all := range d.pages {
		p := make([]byte, pageBytes)
		n, err := readFull(table, p, int64(page)*pageBytes)
		if err != nil {
			return err
		}
		if err := d.verifyPage(page, p[:n], all, logged[page], max(promised, newest)); err != nil {
			return fmt.Errorf("database, seed %d, promised are %d transactions, the log has up to %d: page %d: %w", d.Seed, promised, newest, page, err)
		}
	}
	return nil
}

// readLog returns which transactions of each page are in the log, the oldest of each only, and the newest of all.
func (d *Database) readLog(fs FS) (oldest map[int]uint64, newest uint64, err error) {
	log, err := fs.Open(d.Dir+"/log", OpenReadOnly, 0)
	if err != nil {
		return nil, 0, err
	}
	defer log.Close()
	b, err := content(log)
	if err != nil {
		return nil, 0, err
	}
	oldest = map[int]uint64{}
	for ; len(b) >= logRecord; b = b[logRecord:] {
		tx, pages, ok := readRecord(b[:logRecord])
		if !ok {
			break
		}
		if newest != 0 && tx != newest+1 {
			return nil, 0, fmt.Errorf("transaction %d follows %d in the log", tx, newest)
		}
		newest = tx
		for _, p := range pages {
			if oldest[p] == 0 {
				oldest[p] = tx
			}
		}
	}
	return oldest, newest, nil
}

// verifyPage says what is wrong with a page of the table. What the log has may not be written yet, be written in part, or completely; of the rest, the last
// transaction that is promised must be there.
func (d *Database) verifyPage(page int, got []byte, all []uint64, logged, promised uint64) error {
	before := uint64(0) // what must at least be there
	for _, tx := range all {
		if tx <= promised && (logged == 0 || tx < logged) {
			before = tx
		}
	}
	p := make([]byte, pageBytes)
	copy(p, got)
	for off := 0; off < pageBytes; off += 512 {
		ok := before == 0 && isZero(p[off:off+512])
		want := make([]byte, pageBytes)
		for _, tx := range all {
			if ok {
				break
			}
			if tx >= before {
				fillPage(want, page, tx)
				ok = string(want[off:off+512]) == string(p[off:off+512])
			}
		}
		if !ok {
			return fmt.Errorf("at %#x there is nothing of transaction %d or a later one (of %v)", off, before, all)
		}
	}
	return nil
}
