package main

import (
	"bytes"
	"fmt"
	"html"

	"github.com/go-bcachefs/bcachefs/internal/racedemo"
)

// Measures of the picture, in pixels.
const (
	svgLane   = 290 // width of a task's column
	svgRow    = 22
	svgMargin = 24
	svgHead   = 92 // above the first row
)

// svgFills are the colours of lines: of the text's background and of the text.
var svgFills = map[racedemo.Mood][2]string{
	racedemo.Plain:  {"#eef2f7", "#1f2937"},
	racedemo.Pause:  {"none", "#6b7280"},
	racedemo.Danger: {"#fecaca", "#991b1b"},
	racedemo.Caught: {"#fde68a", "#78350f"},
	racedemo.Good:   {"#bbf7d0", "#14532d"},
}

// raceSVG draws timelines beside each other: time goes down, each task has a column.
func raceSVG(schedule string, panels []panel) []byte {
	rows, width := 0, svgMargin
	for i := range panels {
		rows = max(rows, len(panels[i].Lines))
		width += len(panels[i].Tasks)*svgLane + svgMargin
	}
	height := svgHead + rows*svgRow + svgMargin
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="13">`+"\n",
		width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	svgText(&b, svgMargin, 26, "#374151", `font-family="monospace"`, schedule)
	x := svgMargin
	for i := range panels {
		svgPanel(&b, &panels[i], x, height)
		x += len(panels[i].Tasks)*svgLane + svgMargin
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func svgPanel(b *bytes.Buffer, p *panel, x, height int) {
	svgText(b, x, 54, "#111827", `font-weight="bold" font-size="15"`, p.title)
	for i, name := range p.Tasks {
		left := x + i*svgLane
		svgText(b, left+14, 78, "#374151", `font-style="italic"`, name)
		fmt.Fprintf(b, `<line x1="%d" y1="%d" x2="%[1]d" y2="%d" stroke="#9ca3af" stroke-width="2"/>`+"\n", left+4, svgHead-8, height-svgMargin)
	}
	for i, l := range p.Lines {
		left, y := x+l.Task*svgLane, svgHead+i*svgRow
		fills := svgFills[l.Mood]
		fmt.Fprintf(b, `<circle cx="%d" cy="%d" r="4" fill="%s"/>`+"\n", left+4, y+svgRow/2-2, fills[1])
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%d" height="%d" rx="4" fill="%s"/>`+"\n", left+12, y, svgLane-20, svgRow-4, fills[0])
		svgText(b, left+18, y+13, fills[1], "", l.Text)
	}
}

func svgText(b *bytes.Buffer, x, y int, fill, attributes, text string) {
	fmt.Fprintf(b, `<text x="%d" y="%d" fill="%s" %s>%s</text>`+"\n", x, y, fill, attributes, html.EscapeString(text))
}
