package bucket

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// record is what a file of the cache holds, as JSON in the file beside it. A content that
// waits for its upload (Pending) was on the disk when its record was written.
type record struct {
	Version  int               `json:"version"`
	Key      string            `json:"key"`
	ETag     string            `json:"etag,omitempty"` // of the object it comes from; none: a new object
	BaseSize int64             `json:"baseSize"`
	BaseEnd  int64             `json:"baseEnd"`
	Size     int64             `json:"size"`
	Have     [][2]int64        `json:"have,omitempty"`
	Dirty    [][2]int64        `json:"dirty,omitempty"`
	Pending  bool              `json:"pending,omitempty"`
	Replaces string            `json:"replaces,omitempty"` // ETag of what is at Key, where that is not what it comes from
	Meta     map[string]string `json:"meta,omitempty"`     // of the object to be
	Type     string            `json:"type,omitempty"`     // content type of the object to be
}

const recordVersion = 1

var errRecord = errors.New("not a record of this program")

func (r *record) encode() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and numbers
	}
	return b
}

// decodeRecord reads a record and checks that it makes sense.
func decodeRecord(b []byte) (*record, error) {
	r := &record{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%w: %w", errRecord, err)
	}
	if r.Version != recordVersion || r.Key == "" || r.Size < 0 || r.BaseSize < 0 || r.BaseEnd < 0 || r.BaseEnd > r.BaseSize || r.BaseEnd > r.Size {
		return nil, errRecord
	}
	for _, list := range [][][2]int64{r.Have, r.Dirty} {
		last := int64(-1)
		for _, s := range list {
			if s[0] <= last || s[0] >= s[1] || s[1] > r.Size {
				return nil, errRecord
			}
			last = s[1]
		}
	}
	have := toSpans(r.Have)
	for _, s := range r.Dirty {
		if len(have.missing(span{s[0], s[1]})) > 0 {
			return nil, errRecord
		}
	}
	return r, nil
}

func readRecord(path string) (*record, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return nil, err
	}
	return decodeRecord(b)
}

func fromSpans(s spans) [][2]int64 {
	out := make([][2]int64, len(s))
	for i, x := range s {
		out[i] = [2]int64{x.off, x.end}
	}
	return out
}

func toSpans(list [][2]int64) spans {
	out := make(spans, len(list))
	for i, x := range list {
		out[i] = span{x[0], x[1]}
	}
	return out
}

// content is the content that a record tells of.
func (r *record) content(d *disk, id string) *content {
	c := newContent(d, version{r.Key, r.ETag, r.BaseSize})
	c.id = id
	c.size, c.baseEnd = r.Size, r.BaseEnd
	c.have, c.dirty = toSpans(r.Have), toSpans(r.Dirty)
	c.charged = c.have.total()
	c.changed = r.Pending
	c.pending = r
	return c
}

// record describes a content. With pending it is one that waits, to become what pending says.
func (c *content) record(pending *record) *record {
	r := &record{
		Version: recordVersion, Key: c.base.key, ETag: c.base.etag, BaseSize: c.base.size, BaseEnd: c.baseEnd, Size: c.size,
		Have: fromSpans(c.have), Dirty: fromSpans(c.dirty),
	}
	if pending != nil {
		r.Pending, r.Key, r.Replaces, r.Meta, r.Type = true, pending.Key, pending.Replaces, pending.Meta, pending.Type
	}
	return r
}

func (c *content) recordPath() string { return c.d.path(dataDir, c.id+recordExt) }
