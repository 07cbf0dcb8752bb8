package fusefs_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/fstest"
)

// What go-fuse asks of filesystems.
func TestProofPosix(t *testing.T) {
	s := newServed(t, 256, nil)
	fstest.Posix(t, s.dir, map[string]string{"XAttrLarge": "the format has no attributes of more than some 2000 bytes; the driver answers ERANGE, too"})
}

// The workload of generic/113, direct.
func TestProofGeneric113(t *testing.T) {
	forSeeds(t, func(t *testing.T, seed uint64) {
		s := newServed(t, 512, nil)
		for _, a := range fstest.Generic113(s.os(), ".", seed, 10, true) {
			if err := a.Run(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

// The same by fio, with libaio, where it is installed.
func TestProofFio(t *testing.T) {
	fio, err := exec.LookPath("fio")
	if err != nil {
		t.Skip("needs fio, which make test installs where it may")
	}
	s := newServed(t, 512, nil)
	jobs := t.TempDir() + "/jobs"
	if err := os.WriteFile(jobs, []byte(fstest.FioJobs(10)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(fio, "--directory="+s.dir, "--minimal", jobs)
	cmd.Dir = t.TempDir() // where it writes what it found, if that was wrong
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// Many goroutines do everything at once.
func TestProofMix(t *testing.T) {
	forSeeds(t, func(t *testing.T, seed uint64) {
		s := newServed(t, 256, nil)
		x := fstest.Mix{FS: s.os(), Seed: seed, Ops: ops(200), Without: []fstest.OpKind{fstest.OpClone}, Logf: t.Logf}
		if err := x.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// A database and mail, and the server is killed.
func TestProofKillLoads(t *testing.T) {
	forSeeds(t, func(t *testing.T, seed uint64) {
		s := newServed(t, 256, nil)
		tick := func() int { return 1 }
		d := &fstest.Database{FS: s.os(), Dir: "db", Seed: seed, Pages: 24, Clock: tick}
		m := &fstest.Mail{FS: s.os(), Dir: "mail", Seed: seed, Clock: tick}
		if err := d.Run(ops(60)); err != nil {
			t.Fatal(err)
		}
		if err := m.Run(t.Context(), ops(60)); err != nil {
			t.Fatal(err)
		}
		fs, err := s.kill()
		if err != nil {
			t.Fatal(err)
		}
		for _, verify := range []func(fstest.FS, int) error{d.Verify, m.Verify} {
			if err := verify(fs, -1); err != nil {
				t.Error(err)
			}
		}
	})
}
