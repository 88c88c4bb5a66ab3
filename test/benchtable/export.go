package main

import "encoding/json"

// exported is the JSON form of all figures. Names are added, never changed.
type exported struct {
	Machine json.RawMessage `json:"machine"`
	Results []exportedRow   `json:"results"`
}

type exportedRow struct {
	Set  string `json:"set"`
	What string `json:"what"`
	metric
	Candidates map[string]figure `json:"candidates"`
}

// figure is one row and candidate: its values, and ratios to others within the
// rounds.
type figure struct {
	spread
	Rounds    rounds  `json:"rounds"`
	ToZram    *spread `json:"to_zram,omitempty"`
	Verdict   string  `json:"verdict,omitempty"` // on ToZram
	ToNull    *spread `json:"to_null,omitempty"`
	ToNbdfuse *spread `json:"to_nbdfuse,omitempty"`
}

func (r *results) export() exported {
	e := exported{Machine: r.facts}
	for _, o := range r.rows {
		x := exportedRow{Set: o.set, What: o.what, metric: o.metric, Candidates: map[string]figure{}}
		for name, v := range o.values {
			s, _ := v.spread() // there is one
			f := figure{spread: s, Rounds: v}
			to := func(other string) *spread {
				s, ok := v.over(o.values[other])
				if !ok || other == name {
					return nil
				}
				return &s
			}
			f.ToZram, f.ToNull, f.ToNbdfuse = to(zram), to(limitOf(name)), to(nbdfuse)
			if f.ToZram != nil {
				f.Verdict = o.verdict(*f.ToZram)
			}
			x.Candidates[name] = f
		}
		e.Results = append(e.Results, x)
	}
	return e
}
