package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

type listJournalCmd struct {
	*app
	openFlags
	journalFilter

	allEntries, dirtyOnly, blacklisted, flushOnly, datetimeOnly, headersOnly bool
	entries                                                                  uint32
	seq                                                                      string
	btreeArg, transactionArg, bkeyVal                                        string
	keyArgs                                                                  []string
	verbose, json                                                            bool

	firstSeq, lastSeq uint64
	fs                *engine.FS
	problems          problems
}

func newListJournalCmd(a *app) *cobra.Command {
	l := &listJournalCmd{app: a, problems: problems{app: a}}
	c := a.command(&cobra.Command{
		Use:     "list_journal [flags] DEV...",
		Aliases: []string{"list-journal"},
		Short:   "List journal entries",
		Long: "list_journal prints the entries of the journal that are there without a gap up to the newest, transaction by\n" +
			"transaction. Filters are lists separated by commas; with a leading - what they match is left out.",
		Args: cobra.MinimumNArgs(1),
	}, l.run)
	f := c.Flags()
	f.BoolVarP(&l.allEntries, "all", "a", false, "print all entries that are there, not just contiguous ones")
	f.BoolVarP(&l.dirtyOnly, "dirty-only", "d", false, "print entries that a recovery would replay only")
	f.Uint32VarP(&l.entries, "nr-entries", "n", 0, "print the newest `N` entries")
	f.StringVarP(&l.seq, "seq", "s", "", "print this sequence number, or range N..M")
	f.BoolVarP(&l.blacklisted, "blacklisted", "B", false, "print blacklisted entries too")
	f.BoolVarP(&l.flushOnly, "flush-only", "F", false, "print flush entries only")
	f.BoolVarP(&l.datetimeOnly, "datetime", "D", false, "print the times of entries only")
	f.BoolVarP(&l.headersOnly, "headers-only", "H", false, "print headers only")
	f.BoolVar(&l.allHeaders, "all-headers", false, "print headers of entries in which nothing passes the filters too")
	f.BoolVarP(&l.log, "log", "l", false, "pass transactions that are log messages only")
	f.BoolVarP(&l.logOnly, "log-only", "L", false, "pass transactions with log messages only")
	f.BoolVarP(&l.offsets, "offset", "O", false, "print the offset of each record, in 8-byte words")
	f.StringVarP(&l.btreeArg, "btree", "b", "", "keys of these `BTREES` only")
	f.StringVarP(&l.transactionArg, "transaction", "t", "", "transactions of these `FUNCTIONS` only")
	f.StringArrayVarP(&l.keyArgs, "key", "k", nil, "transactions that touch these `RANGES` btree:inode:offset[-btree:inode:offset] only")
	f.StringVarP(&l.bkeyVal, "bkey-val", "V", "true", "print the values of keys")
	f.BoolVarP(&l.verbose, "verbose", "v", false, "tell what was noticed in the journal")
	jsonFlag(c, &l.json)
	l.register(f)
	return c
}

func (l *listJournalCmd) parse() error {
	l.btrees = math.MaxUint64
	l.lastSeq = math.MaxUint64
	l.colors = l.outTTY
	if l.btreeArg != "" {
		minus, list := signed(l.btreeArg)
		l.btrees = 0
		for _, name := range strings.Split(list, ",") {
			id, err := ondisk.ParseBtreeID(name)
			if err != nil {
				return usagef("--btree: %v: there are %s", err, strings.Join(btreeNames(), ", "))
			}
			l.btrees |= 1 << id
		}
		if minus {
			l.btrees = ^l.btrees
		}
		l.filtering = true
	}
	if l.transactionArg != "" {
		minus, list := signed(l.transactionArg)
		l.notFunctions, l.functions = minus, strings.Split(list, ",")
		l.filtering = true
	}
	for _, arg := range l.keyArgs {
		minus, list := signed(arg)
		for _, part := range strings.Split(list, ",") {
			r, err := parseKeyRange(part)
			if err != nil {
				return usagef("--key: %v", err)
			}
			r.not = minus
			l.ranges = append(l.ranges, r)
		}
		l.filtering = true
	}
	l.filtering = l.filtering || l.logOnly
	values, ok := parseBool(l.bkeyVal)
	if !ok {
		return usagef("--bkey-val %s: want true or false", l.bkeyVal)
	}
	l.noValues = !values
	if l.seq == "" {
		return nil
	}
	var err error
	if l.firstSeq, l.lastSeq, err = parseSeqRange(l.seq); err != nil {
		return usagef("--seq: %v", err)
	}
	return nil
}

// signed splits off a leading + or -.
func signed(s string) (minus bool, rest string) {
	if rest, ok := strings.CutPrefix(s, "-"); ok {
		return true, rest
	}
	return false, strings.TrimPrefix(s, "+")
}

// parseSeqRange reads N, N..M, N.. or ..M.
func parseSeqRange(s string) (first, last uint64, err error) {
	a, b, isRange := strings.Cut(s, "..")
	if !isRange {
		b = a
	}
	number := func(s string, otherwise uint64) (uint64, error) {
		if s == "" && isRange {
			return otherwise, nil
		}
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%q is no sequence number", s)
		}
		return n, nil
	}
	if first, err = number(a, 0); err != nil {
		return 0, 0, err
	}
	if last, err = number(b, math.MaxUint64); err != nil {
		return 0, 0, err
	}
	return min(first, last), max(first, last), nil
}

func (l *listJournalCmd) run(ctx context.Context, args []string) error {
	if err := l.parse(); err != nil {
		return err
	}
	l.options = append([]string{"very_degraded"}, l.options...)
	var err error
	if l.fs, err = l.openEngine(ctx, l.app, args); err != nil {
		return err
	}
	defer l.fs.Close()
	cfg := l.fs.JournalConfig()
	cfg.All = true
	found, err := journal.Scan(ctx, &cfg)
	if err != nil {
		return failed("list_journal", strings.Join(args, ":"), err)
	}
	sel := journal.Select(found.Candidates, cfg.Blacklist, cfg.Degraded)
	if l.verbose {
		for _, p := range slices.Concat(found.Problems, sel.Problems) {
			l.warnf("%s", p)
		}
	}
	return l.list(ctx, &cfg, found.Candidates, &sel)
}

// list prints the chosen entries. Select has sorted them.
func (l *listJournalCmd) list(ctx context.Context, cfg *journal.Config, all []*journal.Candidate, sel *journal.Selection) error {
	chosen := l.choose(cfg, all, sel)
	j := journalPrinter{filter: &l.journalFilter, keys: newKeyPrinter(l.fs), fs: l.fs, cfg: cfg}
	next := uint64(0)
	for _, c := range chosen {
		if err := ctx.Err(); err != nil {
			return err
		}
		if next != 0 && !l.json {
			for seq := next; seq < c.Seq; {
				first, end := missingRange(cfg, seq, c.Seq)
				if first == end {
					break
				}
				note := ""
				if end < sel.LastSeq {
					note = " (not dirty)"
				}
				fmt.Fprintf(l.out, "missing %d entries at %d-%d%s\n", end-first, first, end-1, note)
				seq = end
			}
		}
		next = c.Seq + 1
		blacklisted := cfg.Blacklist.Contains(c.Seq)
		switch {
		case blacklisted && !l.blacklisted, l.flushOnly && !c.Flush:
			continue
		case !c.Good:
			l.problems.add("list_journal", fmt.Sprintf("entry %d", c.Seq), fmt.Errorf("its checksum is wrong"))
			continue
		}
		set, err := readEntry(ctx, cfg, c)
		if err != nil {
			l.problems.add("list_journal", fmt.Sprintf("entry %d", c.Seq), err)
			continue
		}
		switch {
		case l.json:
			err = writeJSONLine(l.out, j.json(c, set, blacklisted, l.headersOnly))
		case l.datetimeOnly:
			err = j.datetime(l.out, set, blacklisted)
		default:
			err = j.entry(l.out, c, set, blacklisted, l.headersOnly)
		}
		if err != nil {
			return failed("writing the output", "", err)
		}
	}
	return l.problems.result()
}

// choose returns the entries that the flags ask for, in order.
func (l *listJournalCmd) choose(cfg *journal.Config, all []*journal.Candidate, sel *journal.Selection) []*journal.Candidate {
	first := l.firstSeq
	switch {
	case l.dirtyOnly:
		first = max(first, sel.LastSeq)
	case l.seq == "" && !l.allEntries:
		// Contiguous up to the newest.
		for i := len(all) - 1; i > 0; i-- {
			if a, b := missingRange(cfg, all[i-1].Seq+1, all[i].Seq); a != b {
				first = all[i].Seq
				break
			}
		}
	}
	if l.entries > 0 && len(all) > 0 {
		newest := all[len(all)-1].Seq
		first = max(first, newest-min(newest, uint64(l.entries)-1))
	}
	return slices.DeleteFunc(slices.Clone(all), func(c *journal.Candidate) bool { return c.Seq < first || c.Seq > l.lastSeq })
}

// missingRange returns the first range of sequence numbers from from to to, exclusive, that is not blacklisted.
func missingRange(cfg *journal.Config, from, to uint64) (first, end uint64) {
	for _, r := range cfg.Blacklist {
		if r.Start <= from && from < r.End {
			from = r.End
		}
	}
	if from >= to {
		return to, to
	}
	end = to
	for _, r := range cfg.Blacklist {
		if r.Start > from && r.Start < end {
			end = r.Start
		}
	}
	return from, end
}

// readEntry reads an entry again, from the first copy that is intact.
func readEntry(ctx context.Context, cfg *journal.Config, c *journal.Candidate) (*ondisk.Jset, error) {
	var first error
	for _, at := range c.Copies {
		b := make([]byte, at.Bytes)
		err := cfg.Members[at.Member].Device.ReadAt(ctx, b, at.Offset)
		if err == nil {
			var set *ondisk.Jset
			if set, _, err = ondisk.DecodeJset(b, cfg.Params); err == nil {
				return set, nil
			}
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		first = fmt.Errorf("no copy was found")
	}
	return nil, first
}
