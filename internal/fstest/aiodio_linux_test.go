package fstest

import (
	"os/exec"
	"strings"
	"testing"
)

func TestAIODIO(t *testing.T) {
	fs := dirs(t)["disk"]
	for _, a := range Generic113(fs, ".", *seed, 40, true) {
		if err := a.Run(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// What is not there, is old, or belongs elsewhere is found.
func TestAIODIOVerify(t *testing.T) {
	f := &aioFile{AIODIO: &AIODIO{}, id: 3}
	p := make([]byte, 512)
	f.stamp(p, 8192, 5)
	for _, c := range []struct {
		off            int64
		oldest, newest uint64
		zero           bool
		want           string
	}{
		{8192, 5, 5, false, ""}, {8192, 0, 9, false, ""}, {8192, 6, 9, false, "found write 5"}, {8192, 1, 4, false, "found write 5"},
		{4096, 1, 9, false, "was not written there"}, {8192, 0, 0, true, ""}, {8192, 1, 1, true, "zeros"},
	} {
		q := append([]byte(nil), p...)
		if c.zero {
			clear(q)
		}
		err := f.verify(q, c.off, c.oldest, c.newest)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// fio takes the jobs, where it is installed.
func TestFioJobs(t *testing.T) {
	jobs := FioJobs(1)
	if n := strings.Count(jobs, "stonewall"); n != 5 || !strings.Contains(jobs, "size=122880k") || !strings.Contains(jobs, "size=10240k") {
		t.Errorf("jobs:\n%s", jobs)
	}
	fio, err := exec.LookPath("fio")
	if err != nil {
		t.Log("fio is not installed: its jobs are not parsed")
		return
	}
	cmd := exec.Command(fio, "--parse-only", "-")
	cmd.Stdin = strings.NewReader(jobs)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
