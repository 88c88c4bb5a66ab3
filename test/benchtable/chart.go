package main

import (
	"bytes"
	"fmt"
	"html/template"
	"image/color"
	"math"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// series are the bars or points of one candidate, one for each place on the
// axis; a place without a figure is absent.
type series struct {
	name   string
	at     []int
	values []spread
}

// chart is one picture.
type chart struct {
	title, unit string
	places      []string
	series      []series
	one         bool // a line at 1: as fast as kernel zram
	log         bool
}

// add notes a figure.
func (s *series) add(place int, v spread) {
	s.at, s.values = append(s.at, place), append(s.values, v)
}

// whiskers are the points of a series with their spread, as gonum wants them.
type whiskers struct {
	*series
	shift float64
}

func (e whiskers) Len() int                    { return len(e.at) }
func (e whiskers) XY(i int) (x, y float64)     { return float64(e.at[i]) + e.shift, e.values[i].Median }
func (e whiskers) YError(i int) (l, h float64) { return below(e.values[i]), above(e.values[i]) }

func below(s spread) float64 { return s.Median - s.Min }
func above(s spread) float64 { return s.Max - s.Median }

// draw makes SVG: bars side by side at each place, with the spread as a line.
func (c *chart) draw() (template.HTML, error) {
	p := plot.New()
	p.Title.Text, p.Y.Label.Text = c.title, c.unit
	p.Legend.Top, p.Legend.ThumbnailWidth = true, vg.Points(14)
	p.Legend.Padding = vg.Points(3)
	for _, style := range []*text.Style{&p.Title.TextStyle, &p.X.Tick.Label, &p.Y.Label.TextStyle, &p.Y.Tick.Label, &p.Legend.TextStyle} {
		style.Font.Variant, style.Font.Size = "Sans", vg.Points(10)
	}
	p.Title.TextStyle.Font.Size = vg.Points(13)
	p.Add(plotter.NewGrid())
	p.NominalX(c.places...)
	if len(strings.Join(c.places, "")) > 60 {
		p.X.Tick.Label.Rotation = math.Pi / 5
		p.X.Tick.Label.XAlign, p.X.Tick.Label.YAlign = draw.XRight, draw.YCenter
	}
	group := 0.8 // of the room of a place
	width := vg.Points(max(640, 60*float64(len(c.places))+float64(len(c.places)*len(c.series))*8))
	bar := (width - vg.Points(90)) * vg.Length(group) / vg.Length(len(c.places)*len(c.series))
	for i := range c.series {
		s := &c.series[i]
		shift := (float64(i) - float64(len(c.series)-1)/2) * group / float64(len(c.series))
		if err := c.bars(p, s, shift, bar, plotutil.Color(i)); err != nil {
			return "", err
		}
	}
	if c.one {
		line := plotter.NewFunction(func(float64) float64 { return 1 })
		line.Dashes = plotutil.Dashes(1)
		p.Add(line)
		p.Legend.Add("kernel zram", line)
	}
	p.X.Min, p.X.Max = -0.5, float64(len(c.places))-0.5
	if c.log {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
		p.Y.Min = c.least()
	} else {
		p.Y.Min = 0
	}
	p.X.Max += 0.12 * float64(len(c.places)) // room for the legend
	out := vgsvg.New(width, vg.Points(300))
	p.Draw(draw.New(out))
	var b bytes.Buffer
	if _, err := out.WriteTo(&b); err != nil {
		return "", fmt.Errorf("draw %s: %w", c.title, err)
	}
	svg := b.String()
	return template.HTML(svg[strings.Index(svg, "<svg"):]), nil // without the prolog of a file
}

// bars draws one series. Where the axis is logarithmic there are points
// instead, since a bar has no foot there.
func (c *chart) bars(p *plot.Plot, s *series, shift float64, width vg.Length, paint color.Color) error {
	points := whiskers{s, shift}
	if len(s.at) == 0 {
		return nil
	}
	if c.log {
		dots, err := plotter.NewScatter(points)
		if err != nil {
			return err
		}
		dots.Color, dots.Shape, dots.Radius = paint, draw.CircleGlyph{}, vg.Points(3.5)
		p.Add(dots)
		p.Legend.Add(s.name, dots)
	} else {
		heights := make(plotter.Values, len(c.places))
		for i, at := range s.at {
			heights[at] = s.values[i].Median
		}
		bars, err := plotter.NewBarChart(heights, width)
		if err != nil {
			return err
		}
		bars.Color, bars.LineStyle.Width = paint, 0
		bars.Offset = 0
		bars.XMin = shift
		p.Add(bars)
		p.Legend.Add(s.name, bars)
	}
	spreads, err := plotter.NewYErrorBars(points)
	if err != nil {
		return err
	}
	p.Add(spreads)
	return nil
}

// least is where a logarithmic axis begins.
func (c *chart) least() float64 {
	least := math.Inf(1)
	for _, s := range c.series {
		for _, v := range s.values {
			if v.Min > 0 {
				least = min(least, v.Min)
			}
		}
	}
	return least / 1.5
}
