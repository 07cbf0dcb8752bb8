// Package kernelvm has the real driver, in a virtual machine, judge and use images in tests.
//
// It runs the scripts of ../shared/kernel-vm, or wherever BCACHEFS_KERNEL_VM points; see the README there. Where they are
// missing or cannot be set up the test is skipped, and says so, as it is under the race detector; with BCACHEFS_KERNEL_VM=require it fails. A boot takes some
// five seconds, so put several filesystems into one call; tests in short mode are skipped too.
//
// One machine runs at a time, whatever number of tests ask for one.
package kernelvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// maxDisks is how many devices the machine has room for.
const maxDisks = 24

// variable names the directory of the scripts, or demands them.
const (
	variable = "BCACHEFS_KERNEL_VM"
	require  = "require"
)

// Disk is an image to attach: /dev/vda, /dev/vdb and so on in the order given.
type Disk struct {
	Path string
	Keep bool // what the machine writes; else that is thrown away
}

// RunOptions say how to run a script.
type RunOptions struct {
	Disks     []Disk
	Share     string // directory that appears as /share, writable
	Payload   string // directory of which a copy appears as /payload
	BlockSize int    // of the disks, in bytes; 0: 512
	MemMB     int    // 0: 1024
	Timeout   time.Duration
	AllowWarn bool // warnings of the kernel are no failure
}

// Output is what a script wrote and returned.
type Output struct {
	Stdout, Stderr string
	Status         int // exit status; from 121 on as the README says
}

// Run runs a shell script as root in the machine, with disks whose changes are kept. The test fails unless the script returns 0.
func Run(t testing.TB, script string, disks ...string) Output {
	t.Helper()
	opts := RunOptions{}
	for _, d := range disks {
		opts.Disks = append(opts.Disks, Disk{d, true})
	}
	out := RunScript(t, script, opts)
	if out.Status != 0 {
		t.Fatalf("the script in the virtual machine returned %d\n%s%s", out.Status, out.Stdout, out.Stderr)
	}
	return out
}

// RunScript runs a shell script as root in the machine.
func RunScript(t testing.TB, script string, opts RunOptions) Output {
	t.Helper()
	if len(opts.Disks) > maxDisks {
		t.Fatalf("%d disks for the virtual machine, want at most %d", len(opts.Disks), maxDisks)
	}
	path := filepath.Join(t.TempDir(), "script.sh")
	if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	var args []string
	for _, d := range opts.Disks {
		how := "--snapshot"
		if d.Keep {
			how = "--disk"
		}
		args = append(args, how, d.Path)
	}
	for _, a := range [][2]string{{"--share", opts.Share}, {"--payload", opts.Payload}} {
		if a[1] != "" {
			args = append(args, a[0], a[1])
		}
	}
	args = append(args, number("--block-size", opts.BlockSize)...)
	args = append(args, number("--mem", opts.MemMB)...)
	if opts.AllowWarn {
		args = append(args, "--allow-warn")
	}
	return call(t, "run", opts.Timeout, append(args, "--", path)...)
}

// CheckOptions say how to check filesystems.
type CheckOptions struct {
	ReadWrite  bool   // first mount a throw-away copy read-write, and create, change and delete files
	Repair     bool   // first let fsck repair a throw-away copy
	Options    string // further mount options, "degraded"
	Passphrase string // of all the filesystems
	BlockSize  int    // of the disks, in bytes; 0: 512
	Timeout    time.Duration
}

// Result is what the driver makes of a filesystem.
type Result struct {
	Status    int    // 0: clean; 1: errors were logged; 2: it cannot be mounted; 3: a file cannot be read; 4: it cannot be used
	Why       string // in words
	Manifest  []byte // what is in it, as package manifest lists it
	Log       string // of the kernel; lines that begin with E are errors
	RepairLog string
}

// Check has the driver check and list filesystems, each on one device or several. The images are not changed.
func Check(t testing.TB, filesystems [][]string, opts CheckOptions) []Result {
	t.Helper()
	disks := 0
	dir := t.TempDir()
	args := []string{"--out", dir}
	for _, on := range []struct {
		flag string
		set  bool
	}{{"--rw", opts.ReadWrite}, {"--repair", opts.Repair}} {
		if on.set {
			args = append(args, on.flag)
		}
	}
	for _, a := range [][2]string{{"--options", opts.Options}, {"--passphrase", opts.Passphrase}} {
		if a[1] != "" {
			args = append(args, a[0], a[1])
		}
	}
	args = append(append(args, number("--block-size", opts.BlockSize)...), "--")
	for _, images := range filesystems {
		disks += len(images)
		args = append(args, strings.Join(images, ":"))
	}
	if disks > maxDisks {
		t.Fatalf("%d disks for the virtual machine, want at most %d", disks, maxDisks)
	}
	out := call(t, "check", opts.Timeout, args...)
	results := make([]Result, len(filesystems))
	for i := range results {
		results[i] = readResult(t, dir, i, out)
	}
	return results
}

// MustBeClean is [Check], and the test fails for each filesystem that the driver is not content with.
func MustBeClean(t testing.TB, filesystems [][]string, opts CheckOptions) []Result {
	t.Helper()
	results := Check(t, filesystems, opts)
	for i, r := range results {
		if r.Status != 0 && !interrupted(r) {
			t.Errorf("%s: the driver says: %s (%d)\n%s%s", strings.Join(filesystems[i], ":"), r.Why, r.Status, r.RepairLog, r.Log)
		}
	}
	return results
}

// interrupted reports whether all that the driver said is that its own copygc was at work when it was unmounted: it calls that an error, and goes on.
func interrupted(r Result) bool {
	const (
		loggedErrors = 1   // status
		mark         = "E" // of a line that is an error
		copygc       = "bch2_evacuate_bucket(): error flushing btree write buffer erofs_no_writes"
	)
	any := false
	for line := range strings.Lines(r.Log + r.RepairLog) {
		if !strings.HasPrefix(line, mark) {
			continue
		}
		if any = strings.Contains(line, copygc); !any {
			return false
		}
	}
	return any && r.Status == loggedErrors
}

func readResult(t testing.TB, dir string, i int, out Output) Result {
	t.Helper()
	read := func(kind string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%d.%s", i, kind)))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return b
	}
	r := Result{Manifest: read("manifest"), Log: string(read("log")), RepairLog: string(read("repair-log"))}
	status, why, _ := strings.Cut(strings.TrimSpace(string(read("result"))), " ")
	n, err := strconv.Atoi(status)
	if err != nil {
		t.Fatalf("the virtual machine left no result (status %d)\n%s", out.Status, out.Stderr)
	}
	r.Status, r.Why = n, why
	return r
}

func number(flag string, n int) []string {
	if n == 0 {
		return nil
	}
	return []string{flag, strconv.Itoa(n)}
}

// Available skips the test unless there is a machine. Call it before work that is for nothing without one.
func Available(t testing.TB) {
	t.Helper()
	find(t)
}

// find returns the directory of the scripts.
func find(t testing.TB) string {
	t.Helper()
	missing := t.Skipf
	dir := os.Getenv(variable)
	if dir == require {
		missing, dir = t.Fatalf, ""
	} else if testing.Short() {
		t.Skip("the virtual machine with the real driver takes too long for short mode")
	} else if race {
		t.Skip("the real driver is asked without the race detector only, which it does not concern")
	}
	if dir == "" {
		dir = beside()
	}
	if dir == "" {
		missing("no virtual machine with the real driver: neither %s nor ../shared/kernel-vm", variable)
	}
	return dir
}

// beside is the directory beside the module, "" if there is none.
func beside() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			vm := filepath.Join(filepath.Dir(dir), "shared", "kernel-vm")
			if _, err := os.Stat(filepath.Join(vm, "run")); err != nil {
				return ""
			}
			return vm
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}

// cache is where setup puts things.
func cache() (string, error) {
	if dir := os.Getenv("BCACHEFS_VM_CACHE"); dir != "" {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".cache", "bcachefs-vm"), err
}

// call runs one of the scripts, when no other machine runs.
func call(t testing.TB, script string, limit time.Duration, args ...string) Output {
	t.Helper()
	dir := find(t)
	where, err := cache()
	if err == nil {
		err = os.MkdirAll(where, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := lock(filepath.Join(where, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if err := setup(dir, where); err != nil {
		missing := t.Skipf
		if os.Getenv(variable) == require {
			missing = t.Fatalf
		}
		missing("the virtual machine with the real driver cannot be set up: %v", err)
	}
	if limit == 0 {
		limit = 5 * time.Minute
	}
	args = append([]string{"--timeout", strconv.Itoa(int(limit / time.Second))}, args...)
	ctx, cancel := context.WithTimeout(context.Background(), limit+time.Minute)
	defer cancel()
	return command(ctx, t, filepath.Join(dir, script), args...)
}

func command(ctx context.Context, t testing.TB, path string, args ...string) Output {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 10 * time.Second
	// An interrupt has the script end the machine too.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return Output{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// setup prepares the machine unless that was done; it is told apart by what it leaves last.
func setup(dir, cache string) error {
	if st, err := os.Stat(filepath.Join(cache, "accel")); err == nil && st.Size() > 0 {
		return nil
	}
	out, err := exec.Command(filepath.Join(dir, "setup")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}
