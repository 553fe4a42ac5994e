package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Median is the median of a row on a target, over rounds without errors; ok is
// false if there is none. note is "*" if some round was cut short, "~" if some round was
// not cold.
func (r *Report) Median(target, row string) (value float64, note string, ok bool) {
	var values []float64
	for _, s := range r.Samples {
		if s.Target != target || s.Row != row || s.Err != "" {
			continue
		}
		values = append(values, s.Value)
		if s.Capped && !strings.Contains(note, "*") {
			note += "*"
		}
		if s.Warm && !strings.Contains(note, "~") {
			note += "~"
		}
	}
	if len(values) == 0 {
		return 0, "", false
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2, note, true
}

// Ratio is how many times better a target is than another in a row: above 1 is
// better, whichever way the row points.
func (r *Report) Ratio(target, than, row string) (float64, bool) {
	a, _, okA := r.Median(target, row)
	b, _, okB := r.Median(than, row)
	if !okA || !okB || a == 0 || b == 0 {
		return 0, false
	}
	if lower(r.Units[row]) {
		a, b = b, a
	}
	return a / b, true
}

// Print writes the table: medians, and for each Massif target how many times
// better it is than each of the others; of several Massif targets, than the first.
func (r *Report) Print(out io.Writer) error {
	fmt.Fprintf(out, "%s\n%s, scale %g\n\n", r.Time.Format("2006-01-02 15:04"), r.Machine, r.Scale)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	head := "row\tunit\t"
	for _, t := range r.Targets {
		head += t + "\t"
	}
	var pairs [][2]string
	for _, t := range r.Targets {
		for _, than := range r.Targets {
			if strings.HasPrefix(t, MassifName) && t != than && (than == MassifName || !strings.HasPrefix(than, MassifName)) {
				pairs = append(pairs, [2]string{t, than})
				head += t + "/" + than + "\t"
			}
		}
	}
	fmt.Fprintln(w, head)
	for _, row := range r.Rows {
		line := row + "\t" + r.Units[row] + "\t"
		for _, t := range r.Targets {
			line += r.cell(t, row) + "\t"
		}
		for _, p := range pairs {
			if ratio, ok := r.Ratio(p[0], p[1], row); ok {
				line += fmt.Sprintf("%.2f\t", ratio)
			} else {
				line += "-\t"
			}
		}
		fmt.Fprintln(w, line)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out, "\nmedians; ratios above 1: massif is better; * the rate when the time was over; ~ not cold: the kernel's caches could not be dropped; ! failed")
	return r.printErrors(out)
}

func (r *Report) cell(target, row string) string {
	if v, note, ok := r.Median(target, row); ok {
		format := "%.0f%s"
		if v < 10 {
			format = "%.2f%s"
		}
		return fmt.Sprintf(format, v, note)
	}
	for _, s := range r.Samples {
		if s.Target == target && s.Row == row {
			return "!"
		}
	}
	return "-"
}

func (r *Report) printErrors(out io.Writer) error {
	for _, s := range r.Samples {
		if s.Err != "" {
			if _, err := fmt.Fprintf(out, "! round %d, %s, %s: %s\n", s.Round+1, s.Target, s.Row, s.Err); err != nil {
				return err
			}
		}
	}
	return nil
}
