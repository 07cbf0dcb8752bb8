package main

import (
	"bufio"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// A cell is a field of a table.
type cell struct {
	text  string
	right bool // aligned to the right
}

func left(s string) cell  { return cell{text: s} }
func right(s string) cell { return cell{text: s, right: true} }

// A table is printed with its columns aligned, one space between them.
type table struct {
	rows [][]cell
	gap  int // spaces between columns, 1 if 0
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

func (t *table) print(w *bufio.Writer) {
	var widths []int
	for _, row := range t.rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	gap := strings.Repeat(" ", max(t.gap, 1))
	for _, row := range t.rows {
		var b strings.Builder
		for i, c := range row {
			if i > 0 {
				b.WriteString(gap)
			}
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text))
			if c.right {
				b.WriteString(pad)
			}
			b.WriteString(c.text)
			if !c.right && i < len(row)-1 {
				b.WriteString(pad)
			}
		}
		w.WriteString(strings.TrimRight(b.String(), " "))
		w.WriteByte('\n')
	}
}

// sortedKeys returns the keys of m in order.
func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
