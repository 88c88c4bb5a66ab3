package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// order is how candidates stand in a table.
var order = []string{zram, "tmpfs-loop", nbdfuse, "zramfs", "zramfs-loop"}

// row is one thing that was measured: a value for each round and candidate.
type row struct {
	name, unit string
	values     map[string][]float64
}

// set is everything that was measured, in the order in which it is shown.
type set struct {
	facts json.RawMessage
	rows  []*row
}

// read collects the files kind.….candidate.round.json of a directory.
func read(dir string) (*set, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.*.json"))
	if err != nil {
		return nil, err
	}
	s := &set{}
	if s.facts, err = os.ReadFile(filepath.Join(dir, "facts.json")); err != nil {
		return nil, err
	}
	sort.Slice(files, func(i, j int) bool { return place(files[i]) < place(files[j]) })
	for _, file := range files {
		part := strings.Split(strings.TrimSuffix(filepath.Base(file), ".json"), ".")
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		candidate := part[len(part)-2]
		switch part[0] {
		case "block":
			err = s.block(part[1], part[2], candidate, text)
		case "swap":
			err = s.swap(candidate, text)
		case "memory":
			err = s.memory(candidate, text)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return s, nil
}

// place sorts the kinds, and of the block jobs small requests before large ones.
func place(file string) string {
	name := filepath.Base(file)
	for i, prefix := range []string{"block.4k-qd1.", "block.4k-qd32.", "block.4k-2x16.", "block.", "swap.", "memory."} {
		if strings.HasPrefix(name, prefix) {
			return fmt.Sprint(i, name)
		}
	}
	return name
}

func (s *set) add(name, unit, candidate string, value float64) {
	i := slices.IndexFunc(s.rows, func(r *row) bool { return r.name == name })
	if i < 0 {
		i = len(s.rows)
		s.rows = append(s.rows, &row{name: name, unit: unit, values: map[string][]float64{}})
	}
	s.rows[i].values[candidate] = append(s.rows[i].values[candidate], value)
}

// block takes fio's report of one job: IOPS, or MiB/s where requests are large.
func (s *set) block(job, rw, candidate string, text []byte) error {
	type side struct {
		IOPS float64 `json:"iops"`
		BW   float64 `json:"bw_bytes"`
	}
	var rep struct {
		Jobs []struct {
			Error int  `json:"error"`
			Read  side `json:"read"`
			Write side `json:"write"`
		} `json:"jobs"`
	}
	if err := json.Unmarshal(text, &rep); err != nil {
		return err
	}
	if len(rep.Jobs) != 1 || rep.Jobs[0].Error != 0 {
		return fmt.Errorf("fio reports %d jobs, or an error", len(rep.Jobs))
	}
	did := rep.Jobs[0].Read
	if rw == "write" {
		did = rep.Jobs[0].Write
	}
	if strings.HasPrefix(job, "1m") {
		s.add(job+" "+rw, "MiB/s", candidate, did.BW/(1<<20))
	} else {
		s.add(job+" "+rw, "IOPS", candidate, did.IOPS)
	}
	return nil
}

// swap takes a report of swapper.
func (s *set) swap(candidate string, text []byte) error {
	var rep struct {
		Wrong  int `json:"wrong_pages"`
		Phases []struct {
			Name  string  `json:"name"`
			MiBs  float64 `json:"mib_per_second"`
			Pages float64 `json:"pages_per_second"`
		} `json:"phases"`
	}
	if err := json.Unmarshal(text, &rep); err != nil {
		return err
	}
	for _, p := range rep.Phases {
		if p.Name == "random" {
			s.add("swap random", "pages/s", candidate, p.Pages)
		} else if p.Name != "final" {
			s.add("swap "+p.Name, "MiB/s", candidate, p.MiBs)
		}
	}
	s.add("swap wrong pages", "", candidate, float64(rep.Wrong))
	return nil
}

// memory takes what a store needed for the same pages.
func (s *set) memory(candidate string, text []byte) error {
	var m struct {
		Orig  float64 `json:"orig_data_size"`
		Compr float64 `json:"compr_data_size"`
		Used  float64 `json:"mem_used_total"`
		Pss   float64 `json:"pss"`
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return err
	}
	if m.Used == 0 || m.Compr == 0 {
		return fmt.Errorf("nothing was stored")
	}
	s.add("compr_data_size", "MiB", candidate, m.Compr/(1<<20))
	s.add("mem_used_total", "MiB", candidate, m.Used/(1<<20))
	s.add("data : mem_used_total", "", candidate, m.Orig/m.Used)
	if m.Pss > 0 {
		s.add("processes beside the pool (Pss)", "MiB", candidate, (m.Pss-m.Used)/(1<<20))
	}
	return nil
}
