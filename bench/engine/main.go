// Command engine runs the workloads of bcachefs' btree_perf_test on this module's btrees and on Go key-value engines, in turn, so that the
// figures can be put beside each other and beside those of the C reference.
//
// Every workload follows the reference: 8-byte keys, 8-byte values, one key per transaction unless its name
// says otherwise, nothing synced, n operations shared out over the threads. One line a figure:
//
//	RESULT engine test threads n wall_ns_op W cpu_ns_op C
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"
)

// An engine is an ordered map from uint64 to uint64 with transactions.
type engine interface {
	// session returns a handle for one goroutine.
	session() session
	close() error
}

// A session runs operations of one goroutine; keys are found by "next at or after", as the reference peeks.
type session interface {
	// put stores each key in one transaction.
	put(keys ...uint64) error
	// seek finds the first key at or after k.
	seek(k uint64) (key uint64, ok bool, err error)
	// update seeks k and, in the same transaction, overwrites what it found.
	update(k uint64) error
	// remove seeks k and, in the same transaction, deletes what it found.
	remove(k uint64) error
	// scan visits all keys; with write, each is overwritten, a transaction per key (or the engine's batch).
	scan(write bool) error
	// clear deletes all keys one by one, as bch2_btree_delete_range does.
	clear() error
	// flush ends any read transaction or batch that the session holds.
	flush() error
}

var engines = map[string]func(dir string) (engine, error){
	"ours":       openOurs,
	"bbolt":      func(dir string) (engine, error) { return openBolt(dir, 1) },
	"bbolt-1000": func(dir string) (engine, error) { return openBolt(dir, 1000) },
	"pebble":     openPebble,
	"btree-mem":  openMem,
}

// rng is xorshift64, the same generator the C run uses, so that neither side pays for entropy.
type rng uint64

func (r *rng) next() uint64 {
	v := *r
	v ^= v << 13
	v ^= v >> 7
	v ^= v << 17
	*r = v
	return uint64(v)
}

type test struct {
	name   string
	single bool // runs on one thread whatever was asked for: clearing up between tests
	run    func(s session, n int, r *rng) error
}

var tests = []test{
	{"rand_insert", false, func(s session, n int, r *rng) error {
		for range n {
			if err := s.put(r.next()); err != nil {
				return err
			}
		}
		return nil
	}},
	{"rand_lookup", false, func(s session, n int, r *rng) error {
		for range n {
			if _, _, err := s.seek(r.next()); err != nil {
				return err
			}
		}
		return nil
	}},
	{"rand_mixed", false, func(s session, n int, r *rng) error {
		for i := range n {
			var err error
			if i&3 == 0 {
				err = s.update(r.next())
			} else {
				_, _, err = s.seek(r.next())
			}
			if err != nil {
				return err
			}
		}
		return nil
	}},
	{"rand_delete", false, func(s session, n int, r *rng) error {
		for range n {
			if err := s.remove(r.next()); err != nil {
				return err
			}
		}
		return nil
	}},
	{"clear", true, clearAll},
	{"rand_insert_multi", false, func(s session, n int, r *rng) error {
		var k [8]uint64
		for i := 0; i < n; i += len(k) {
			for j := range k {
				k[j] = r.next()
			}
			if err := s.put(k[:]...); err != nil {
				return err
			}
		}
		return nil
	}},
	{"clear", true, clearAll},
	{"seq_insert", false, func(s session, n int, _ *rng) error {
		for i := range n {
			if err := s.put(uint64(i)); err != nil {
				return err
			}
		}
		return nil
	}},
	{"seq_lookup", false, func(s session, _ int, _ *rng) error { return s.scan(false) }},
	{"seq_overwrite", false, func(s session, _ int, _ *rng) error { return s.scan(true) }},
	{"seq_delete", true, clearAll},
}

func clearAll(s session, _ int, _ *rng) error { return s.clear() }

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		log.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func runTest(e engine, t test, n, threads int) (wall, cpu time.Duration, err error) {
	if t.single {
		threads = 1
	}
	var wg sync.WaitGroup
	errs := make([]error, threads)
	start, startCPU := time.Now(), cpuTime()
	for i := range threads {
		wg.Go(func() {
			s, r := e.session(), rng(uint64(start.UnixNano())^uint64(i+1)<<40)
			if errs[i] = t.run(s, n/threads, &r); errs[i] == nil {
				errs[i] = s.flush()
			}
		})
	}
	wg.Wait()
	wall, cpu = time.Since(start), cpuTime()-startCPU
	for _, err := range errs {
		if err != nil {
			return 0, 0, err
		}
	}
	return wall, cpu, nil
}

func main() {
	log.SetFlags(0)
	n := flag.Int("n", 1_000_000, "operations per test, over all threads")
	threads := flag.String("threads", "1,2", "thread counts")
	names := flag.String("engines", "ours,bbolt-1000,pebble,btree-mem", "engines: ours, bbolt, bbolt-1000, pebble, btree-mem")
	dir := flag.String("dir", os.TempDir(), "directory for the databases")
	rounds := flag.Int("rounds", 1, "how often all is run; the table at the end has medians")
	only := flag.String("tests", "", "only these tests, by name; those they rest on must be named too")
	profile := flag.String("cpuprofile", "", "file for a profile of processor time")
	blocked := flag.String("blockprofile", "", "file for a profile of waiting")
	flag.Parse()
	if *only != "" {
		names := strings.Split(*only, ",")
		tests = slices.DeleteFunc(tests, func(t test) bool { return !slices.Contains(names, t.name) })
	}
	if *blocked != "" {
		runtime.SetBlockProfileRate(1000)
		defer writeProfile("block", *blocked)
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			log.Fatal(err)
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			log.Fatal(err)
		}
		defer pprof.StopCPUProfile()
	}
	list := strings.Split(*names, ",")
	var counts []int
	for _, ts := range strings.Split(*threads, ",") {
		th, err := strconv.Atoi(ts)
		if err != nil || th < 1 {
			log.Fatalf("engine: bad thread count %q", ts)
		}
		counts = append(counts, th)
	}
	all := results{}
	for round := range *rounds {
		for _, th := range counts {
			for i := range list {
				name := list[(i+round)%len(list)] // in turn
				open, ok := engines[name]
				if !ok {
					log.Fatalf("engine: no engine %q", name)
				}
				if err := runEngine(all, name, open, *dir, *n, th); err != nil {
					log.Fatalf("engine: %s: %v", name, err)
				}
			}
		}
	}
	all.print(list, counts)
}

func writeProfile(name, file string) {
	f, err := os.Create(file)
	if err == nil {
		err = errors.Join(pprof.Lookup(name).WriteTo(f, 0), f.Close())
	}
	if err != nil {
		log.Print(err)
	}
}

// results are times an operation, in nanoseconds, by engine, threads and test.
type results map[string][]int64

func (r results) key(engine string, threads int, test string) string {
	return fmt.Sprint(engine, " ", threads, " ", test)
}

// print prints a table of medians, one row a test, one column an engine and number of threads.
func (r results) print(engines []string, threads []int) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "ns an operation, medians\t")
	for _, e := range engines {
		for _, th := range threads {
			fmt.Fprintf(w, "%s/%d\t", e, th)
		}
	}
	fmt.Fprintln(w)
	for _, t := range tests {
		if t.name == "clear" {
			continue
		}
		fmt.Fprintf(w, "%s\t", t.name)
		for _, e := range engines {
			for _, th := range threads {
				v := r[r.key(e, th, t.name)]
				if len(v) == 0 {
					fmt.Fprint(w, "-\t")
					continue
				}
				slices.Sort(v)
				fmt.Fprintf(w, "%d\t", v[len(v)/2])
			}
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		log.Fatal(err)
	}
}

func runEngine(all results, name string, open func(string) (engine, error), dir string, n, threads int) error {
	tmp, err := os.MkdirTemp(dir, "engines-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	e, err := open(filepath.Join(tmp, name))
	if err != nil {
		return err
	}
	for _, t := range tests {
		wall, cpu, err := runTest(e, t, n, threads)
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		k := all.key(name, threads, t.name)
		all[k] = append(all[k], wall.Nanoseconds()/int64(n))
		fmt.Printf("RESULT %s %s %d %d wall_ns_op %d cpu_ns_op %d\n",
			name, t.name, threads, n, wall.Nanoseconds()/int64(n), cpu.Nanoseconds()/int64(n))
	}
	return e.close()
}
