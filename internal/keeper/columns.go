package keeper

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// TableOptions is how a status table is written.
type TableOptions struct {
	Columns    []string // none: all
	Bytes      bool     // sizes as plain numbers
	Raw        bool     // one space between columns, spaces in values as \x20, "-" for nothing
	NoHeadings bool
}

// column is a column of the table: zramctl's first, by its names and order.
type column struct {
	name  string
	right bool
	show  func(s *Status, size func(int64) string) string
}

func statusColumns() []column {
	count := func(n int64) string { return strconv.FormatInt(n, 10) }
	return []column{
		{"NAME", false, func(s *Status, _ func(int64) string) string { return s.Name }},
		{"DISKSIZE", true, func(s *Status, size func(int64) string) string { return size(s.Disksize) }},
		{"DATA", true, func(s *Status, size func(int64) string) string { return size(s.OrigDataSize) }},
		{"COMPR", true, func(s *Status, size func(int64) string) string { return size(s.ComprDataSize) }},
		{"ALGORITHM", false, func(s *Status, _ func(int64) string) string { return s.Algorithm }},
		{"STREAMS", true, func(s *Status, _ func(int64) string) string { return count(int64(s.Streams)) }},
		{"ZERO-PAGES", true, func(s *Status, _ func(int64) string) string { return count(s.SamePages) }},
		{"TOTAL", true, func(s *Status, size func(int64) string) string { return size(s.MemUsedTotal) }},
		{"MEM-LIMIT", true, func(s *Status, size func(int64) string) string { return size(s.MemLimit) }},
		{"MEM-USED", true, func(s *Status, size func(int64) string) string { return size(s.MemUsedMax) }},
		{"MIGRATED", true, func(s *Status, _ func(int64) string) string { return count(s.PagesCompacted) }},
		{"COMP-RATIO", true, func(s *Status, _ func(int64) string) string { return ratio(s.MemoryStat) }},
		{"MOUNTPOINT", false, func(s *Status, _ func(int64) string) string { return s.Mountpoint }},
		{"TRANSPORT", false, func(s *Status, _ func(int64) string) string { return s.Transport }},
		{"POLICY", false, func(s *Status, _ func(int64) string) string { return s.Stable }},
		{"HUGE-PAGES", true, func(s *Status, _ func(int64) string) string { return count(s.HugePages) }},
		{"LOOP", false, func(s *Status, _ func(int64) string) string { return strings.Join(s.Loop, ",") }},
		{"SWAP-USED", true, func(s *Status, size func(int64) string) string {
			used := ""
			for i, w := range s.Swap {
				if i > 0 {
					used += ","
				}
				used += size(w.Used)
			}
			return used
		}},
		{"STATE", false, func(s *Status, _ func(int64) string) string { return s.State }},
		{"LOCKED", false, func(s *Status, _ func(int64) string) string { return yesNo(s.Locked) }},
	}
}

// ColumnNames lists the columns of a status table.
func ColumnNames() []string {
	var names []string
	for _, c := range statusColumns() {
		names = append(names, c.name)
	}
	return names
}

// ratio is zramctl's: data to all memory that holds it.
func ratio(m MemoryStat) string {
	if m.MemUsedTotal == 0 {
		return ""
	}
	return strconv.FormatFloat(float64(m.OrigDataSize)/float64(m.MemUsedTotal), 'f', 4, 64)
}

// Table writes a line per device. An unknown column: CodeUsage.
func Table(all []Status, o TableOptions) (string, error) {
	columns, err := chooseColumns(o.Columns)
	if err != nil {
		return "", err
	}
	size := HumanSize
	if o.Bytes {
		size = func(n int64) string { return strconv.FormatInt(n, 10) }
	}
	var rows [][]string
	if !o.NoHeadings {
		var head []string
		for _, c := range columns {
			head = append(head, c.name)
		}
		rows = append(rows, head)
	}
	for i := range all {
		var row []string
		for _, c := range columns {
			row = append(row, c.show(&all[i], size))
		}
		rows = append(rows, row)
	}
	if o.Raw {
		return rawTable(rows), nil
	}
	return alignedTable(rows, columns), nil
}

func chooseColumns(names []string) ([]column, error) {
	all := statusColumns()
	if len(names) == 0 {
		return all, nil
	}
	var chosen []column
	for _, name := range names {
		i := slices.IndexFunc(all, func(c column) bool { return strings.EqualFold(c.name, strings.TrimSpace(name)) })
		if i < 0 {
			return nil, Errorf(CodeUsage, "unknown column %q: expected some of %s", name, strings.Join(ColumnNames(), ","))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

func rawTable(rows [][]string) string {
	var b strings.Builder
	for _, row := range rows {
		for i, cell := range row {
			if i > 0 {
				b.WriteByte(' ')
			}
			if cell == "" {
				cell = "-"
			}
			b.WriteString(strings.ReplaceAll(cell, " ", `\x20`))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func alignedTable(rows [][]string, columns []column) string {
	width := make([]int, len(columns))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], len(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			if columns[i].right {
				fmt.Fprintf(&line, "%*s ", width[i], cell)
			} else {
				fmt.Fprintf(&line, "%-*s ", width[i], cell)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

// HumanSize writes bytes as util-linux does: 4G, 63.4M, 0B.
func HumanSize(n int64) string {
	const units = "BKMGTPE"
	unit, tenths := 0, n*10
	for tenths >= 10<<10 && unit < len(units)-1 {
		unit++
		tenths = int64(float64(n)*10/float64(int64(1)<<(10*unit)) + 0.5)
	}
	if tenths%10 == 0 {
		return fmt.Sprintf("%d%c", tenths/10, units[unit])
	}
	return fmt.Sprintf("%d.%d%c", tenths/10, tenths%10, units[unit])
}
