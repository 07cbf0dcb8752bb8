package fstest

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestMix(t *testing.T) {
	fs := quick{dirs(t)["disk"]}
	if err := (Mix{FS: fs, Seed: *seed, Ops: 400, Without: []OpKind{OpClone}}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A wrong number of links is found.
func TestConsistent(t *testing.T) {
	fs := dirs(t)["disk"]
	for _, err := range []error{fs.Mkdir("d", 0o755), os.WriteFile(fs.path("f"), []byte("x"), 0o600), fs.Link("f", "d/g"), Consistent(fs)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := Consistent(Sub{fs, "d"}); err == nil || !strings.Contains(err.Error(), "2 links, with 1 names") {
		t.Errorf("error %v", err)
	}
}

func TestDatabase(t *testing.T) {
	fs := quick{dirs(t)["disk"]}
	tick := 0
	d := &Database{FS: fs, Dir: "db", Seed: *seed, Clock: func() int { tick++; return tick }}
	if err := d.Run(100); err != nil {
		t.Fatal(err)
	}
	if err := d.Verify(fs, -1); err != nil {
		t.Fatal(err)
	}
	// What comes of a promise that is not kept.
	page := d.pages[3]
	if len(page) == 0 {
		t.Fatal("page 3 was never written")
	}
	f, err := fs.Open("db/table", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 512), 3*pageBytes+1024); err != nil {
		t.Fatal(err)
	}
	if err := d.Verify(fs, -1); err == nil || !strings.Contains(err.Error(), "page 3: at 0x400") {
		t.Errorf("error %v", err)
	}
}

func TestMail(t *testing.T) {
	fs := quick{dirs(t)["disk"]}
	m := &Mail{FS: fs, Dir: "mail", Seed: *seed, Clock: func() int { return 1 }}
	if err := m.Run(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(fs, -1); err != nil {
		t.Fatal(err)
	}
	list, err := fs.ReadDir("mail/new")
	if err != nil || len(list) == 0 {
		t.Fatal(err)
	}
	if err := fs.Unlink("mail/new/" + list[0].Name); err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(fs, -1); err == nil || !strings.Contains(err.Error(), "is lost") {
		t.Errorf("error %v", err)
	}
}

// small is a filesystem with an invented amount of space, of which deleting gives back all but a part.
type small struct {
	OS
	used, lost *int64
}

type smallFile struct {
	*osFile
	s small
}

const smallBytes = 4 << 20

func (s small) Open(path string, flags OpenFlags, perm uint32) (File, error) {
	f, err := s.OS.Open(path, flags, perm)
	if err != nil {
		return nil, err
	}
	return smallFile{f.(*osFile), s}, nil
}

func (s small) use(n int64) error {
	if *s.used += n; *s.used > smallBytes {
		return ENOSPC
	}
	return nil
}

func (f smallFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.s.use(int64(len(p))); err != nil {
		return 0, err
	}
	return f.osFile.WriteAt(p, off)
}

func (f smallFile) Allocate(m AllocMode, off, n int64) error {
	if err := f.s.use(n); err != nil {
		return err
	}
	return f.osFile.Allocate(m, off, n)
}

func (s small) Mkdir(path string, perm uint32) error {
	if err := s.use(1 << 16); err != nil {
		return err
	}
	return s.OS.Mkdir(path, perm)
}

func (s small) Statfs() (Statfs, error) {
	return Statfs{Size: smallBytes, Free: smallBytes - min(*s.used, smallBytes)}, nil
}

func (s small) Sync() error {
	*s.used = *s.lost
	return nil
}

func TestRefill(t *testing.T) {
	fs := small{dirs(t)["disk"], new(int64), new(int64)}
	x := Refill{FS: fs, Dir: "refill", Seed: 0, Rounds: len(fillers), Slowest: time.Minute, Logf: t.Logf}
	if err := x.Run(); err != nil {
		t.Fatal(err)
	}
	*fs.lost = 512
	if err := x.Run(); err == nil || !strings.Contains(err.Error(), "512 have not come back") {
		t.Errorf("error %v", err)
	}
}
