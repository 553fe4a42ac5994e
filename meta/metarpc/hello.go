package metarpc

import (
	"encoding/json"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// ALPN is what a client of this protocol offers in its TLS handshake.
const ALPN = "massif-meta/1"

// Versions of the protocol that this code speaks. A version is of the frames after
// the welcome; hello and welcome never change but for fields at their end.
const (
	minVersion = 1
	maxVersion = 1
)

const helloMagic = "MSFm"

// secretSize is the length of a session's secret: who knows it may resume the
// session.
const secretSize = 32

// Hello is what a client says of itself.
type Hello struct {
	Token  string // shows what the client may do; secret
	Volume string // by name; may be empty where the token says it
	// At asks for the past: a time as RFC 3339 or the name of a snapshot; empty:
	// the present.
	At       string
	ReadOnly bool
	Info     meta.SessionInfo

	cache                  bool // the client wants leases
	early                  bool // it can make changes again that a crash took back
	minVersion, maxVersion uint64
	session                uint64 // to be resumed; 0: a new one
	secret                 []byte
}

func (h *Hello) encode(e *encoder) {
	e.b = append(e.b, helloMagic...)
	e.uint(h.minVersion)
	e.uint(h.maxVersion)
	e.str(h.Token)
	e.str(h.Volume)
	e.str(h.At)
	e.bool(h.ReadOnly)
	e.bool(h.cache)
	e.uint(h.session)
	e.bytes(h.secret)
	e.str(h.Info.Host)
	e.uint(uint64(max(h.Info.PID, 0)))
	e.str(h.Info.Mountpoint)
	e.str(h.Info.Version)
	e.bool(h.early)
}

func (h *Hello) decode(body []byte) error {
	if len(body) < len(helloMagic) || string(body[:len(helloMagic)]) != helloMagic {
		return errors.New("the peer does not speak the metadata protocol")
	}
	d := decoder{b: body[len(helloMagic):]}
	*h = Hello{minVersion: d.uint(), maxVersion: d.uint(), Token: d.str(4 << 10), Volume: d.str(256), At: d.str(256), ReadOnly: d.bool(), cache: d.bool(),
		session: d.uint(), secret: append([]byte(nil), d.bytes(secretSize)...),
		Info: meta.SessionInfo{Host: d.str(256), PID: int(d.u32()), Mountpoint: d.str(4 << 10), Version: d.str(256)}}
	if d.bad {
		return errMalformed
	}
	if len(d.b) > 0 { // an earlier version ends here
		h.early = d.bool()
	}
	if d.bad { // bytes left over are of a later version
		return errMalformed
	}
	return nil
}

// version returns the version that both sides speak.
func (h *Hello) version() (uint64, error) {
	v := min(h.maxVersion, maxVersion)
	if v < max(h.minVersion, minVersion) {
		return 0, vfs.WithErrno(syscall.EPROTONOSUPPORT, fmt.Errorf(
			"client and metadata server have no protocol version in common: the client speaks %d to %d, the server %d to %d",
			h.minVersion, h.maxVersion, minVersion, maxVersion))
	}
	return v, nil
}

// How a session came about.
type resumption uint8

const (
	sessionNew      resumption = iota
	sessionResumed             // the server has all of it
	sessionRestored            // the server was restarted: it knows nothing but what is stored
)

// welcome is the server's answer to a hello.
type welcome struct {
	version uint64
	err     error // the client is not let in; the rest is not set
	// unknown: the session to be resumed does not exist any more.
	unknown bool

	session  uint64
	secret   []byte
	how      resumption
	format   meta.Format
	lease    time.Duration // how long a lease is good without an answer from the server
	life     time.Duration // how long a session lives without a word from the client
	durable  bool          // replies to changes come when these are on stable storage
	limited  bool          // there are quotas: space is to be reserved
	readOnly bool
	server   string  // the server's program and version
	root     vfs.Ino // the volume's number of what the client calls vfs.Root
	early    bool    // replies to changes may come before they are durable, see early.go
	instance uint64  // tells the engine from those that had the volume before
}

func (w *welcome) encode(e *encoder) error {
	e.uint(w.version)
	if w.err != nil {
		e.u8(statusError)
		e.error(w.err)
		e.bool(w.unknown)
		return nil
	}
	format, err := json.Marshal(&w.format)
	if err != nil {
		return err
	}
	e.u8(statusOK)
	e.uint(w.session)
	e.bytes(w.secret)
	e.u8(uint8(w.how))
	e.bytes(format)
	e.uint(uint64(w.lease / time.Millisecond))
	e.uint(uint64(w.life / time.Millisecond))
	e.bool(w.durable)
	e.bool(w.limited)
	e.bool(w.readOnly)
	e.str(w.server)
	e.uint(uint64(w.root))
	e.bool(w.early)
	e.uint(w.instance)
	return nil
}

// maxPeriod bounds the times that a server may ask for.
const maxPeriod = uint64(time.Hour / time.Millisecond)

func (w *welcome) decode(body []byte) error {
	d := decoder{b: body}
	*w = welcome{version: d.uint()}
	switch status := d.u8(); {
	case d.bad || status > statusError:
		return errMalformed
	case status == statusError:
		w.err = d.error()
		w.unknown = d.bool()
	default:
		w.session, w.secret, w.how = d.uint(), append([]byte(nil), d.bytes(secretSize)...), resumption(d.u8())
		format := d.bytes(maxFormat)
		w.lease = time.Duration(d.most(maxPeriod)) * time.Millisecond
		w.life = time.Duration(d.most(maxPeriod)) * time.Millisecond
		w.durable, w.limited, w.readOnly, w.server = d.bool(), d.bool(), d.bool(), d.str(256)
		w.root = d.ino()
		if !d.bad && len(d.b) > 0 { // an earlier version ends here
			w.early, w.instance = d.bool(), d.uint()
		}
		if d.bad || w.root == 0 || w.how > sessionRestored || w.lease == 0 || w.life == 0 || len(w.secret) != secretSize {
			return errMalformed
		}
		f, err := parseFormat(format)
		if err != nil {
			return err
		}
		w.format = *f
	}
	if d.bad {
		return errMalformed
	}
	return nil
}

// maxFormat bounds the settings of a volume.
const maxFormat = 64 << 10

func parseFormat(text []byte) (*meta.Format, error) {
	f := new(meta.Format)
	if err := json.Unmarshal(text, f); err != nil {
		return nil, fmt.Errorf("%w: settings of the volume: %v", errMalformed, err)
	}
	return f, f.Validate()
}
