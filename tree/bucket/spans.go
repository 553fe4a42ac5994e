package bucket

import "sort"

// span is the bytes from off up to end, which is not part of it.
type span struct{ off, end int64 }

func (s span) len() int64 { return s.end - s.off }

// spans is a set of bytes: spans in ascending order that neither overlap nor touch.
type spans []span

// at returns the index of the first span that ends at or behind off.
func (s spans) at(off int64) int {
	return sort.Search(len(s), func(i int) bool { return s[i].end >= off })
}

// add returns s with the bytes of a span.
func (s spans) add(n span) spans {
	if n.off >= n.end {
		return s
	}
	i := s.at(n.off)
	j := i
	for j < len(s) && s[j].off <= n.end {
		n.off, n.end = min(n.off, s[j].off), max(n.end, s[j].end)
		j++
	}
	if i == j {
		s = append(s, span{})
		copy(s[i+1:], s[i:])
		s[i] = n
		return s
	}
	s[i] = n
	return append(s[:i+1], s[j:]...)
}

// remove returns s without the bytes of a span.
func (s spans) remove(n span) spans {
	if n.off >= n.end {
		return s
	}
	var out spans
	for _, have := range s {
		if have.end <= n.off || have.off >= n.end {
			out = append(out, have)
			continue
		}
		if have.off < n.off {
			out = append(out, span{have.off, n.off})
		}
		if have.end > n.end {
			out = append(out, span{n.end, have.end})
		}
	}
	return out
}

// within returns the parts of s inside n.
func (s spans) within(n span) spans {
	var out spans
	for i := s.at(n.off); i < len(s) && s[i].off < n.end; i++ {
		if p := (span{max(n.off, s[i].off), min(n.end, s[i].end)}); p.off < p.end {
			out = append(out, p)
		}
	}
	return out
}

// missing returns the parts of n that are not in s.
func (s spans) missing(n span) spans {
	var out spans
	for _, have := range s.within(n) {
		if n.off < have.off {
			out = append(out, span{n.off, have.off})
		}
		n.off = have.end
	}
	if n.off < n.end {
		out = append(out, n)
	}
	return out
}

// total is the number of bytes.
func (s spans) total() (n int64) {
	for _, have := range s {
		n += have.len()
	}
	return n
}
