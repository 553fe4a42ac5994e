package file

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/massif-fs/massif/object"
	"golang.org/x/sys/unix"
)

// attrName is the extended attribute that holds attrs as JSON.
const attrName = "user.massif"

// maxAttr bounds it, in bytes: ext4 gives all attributes of a file one block of
// 4 KiB.
const maxAttr = 3500

// attrs are the properties of an object that a file has no place for.
type attrs struct {
	ContentType string            `json:"type,omitempty"`
	Metadata    map[string]string `json:"meta,omitempty"`
}

func attrsOf(opts *object.PutOptions) attrs {
	return attrs{ContentType: opts.ContentType, Metadata: maps.Clone(opts.Metadata)}
}

func (a attrs) empty() bool { return a.ContentType == "" && len(a.Metadata) == 0 }

func (a attrs) encode() ([]byte, error) {
	p, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	if len(p) > maxAttr {
		return nil, fmt.Errorf("%w: content type and metadata take %d bytes, %d are possible", object.ErrInvalid, len(p), maxAttr)
	}
	return p, nil
}

func decodeAttrs(p []byte) (attrs, error) {
	var a attrs
	if err := json.Unmarshal(p, &a); err != nil {
		return attrs{}, fmt.Errorf("%w: attribute %s: %w", object.ErrCorrupt, attrName, err)
	}
	return a, nil
}

// readAttrs reads the attributes of an open file; one without gives none.
func readAttrs(fd int) (attrs, error) {
	buf := make([]byte, 256)
	for {
		n, err := unix.Fgetxattr(fd, attrName, buf)
		switch err {
		case nil:
			return decodeAttrs(buf[:n])
		case unix.EINTR:
		case unix.ENODATA, unix.EOPNOTSUPP, unix.EPERM:
			return attrs{}, nil
		case unix.ERANGE:
			if len(buf) > 64<<10 {
				return attrs{}, err
			}
			buf = make([]byte, 2*len(buf))
		default:
			return attrs{}, err
		}
	}
}

// etagOf: see the package comment.
func etagOf(st *unix.Stat_t) string {
	var buf [64]byte
	b := strconv.AppendUint(buf[:0], st.Ino, 36)
	b = append(b, '-')
	b = strconv.AppendInt(b, st.Size, 36)
	b = append(b, '-')
	b = strconv.AppendInt(b, st.Mtim.Nano(), 36)
	return string(b)
}

func infoOf(key string, st *unix.Stat_t, a attrs) object.Info {
	return object.Info{
		Key:         key,
		Size:        st.Size,
		ETag:        etagOf(st),
		ModTime:     time.Unix(st.Mtim.Unix()),
		ContentType: a.ContentType,
		Metadata:    a.Metadata,
	}
}
