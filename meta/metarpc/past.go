package metarpc

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/massif-fs/massif/meta"
)

// Sessions that see the volume as it was at a time. Each has a read-only engine of its
// own, over the database of the present one.

// pastSessions numbers them, above all numbers of sessions of the present.
var pastSessions atomic.Uint64

const firstPastSession = 1 << 62

// pastSession is a session of an engine that ends with it.
type pastSession struct {
	hosted
	engine *meta.Engine
	id     uint64
}

func (s *pastSession) ID() uint64 { return s.id }

func (s *pastSession) Close() error { return errors.Join(s.hosted.Close(), s.engine.Close()) }

// open begins a session of the engine, at the time that the client asks for; one of the
// present can be resumed with secret. The volume
// that it returns has the session's engine.
func (v *Volume) open(ctx context.Context, h *Hello, secret []byte) (*Volume, hosted, error) {
	if h.At == "" {
		ms, err := v.Engine.NewResumableSession(ctx, h.Info, secret)
		if err != nil {
			return nil, nil, err
		}
		present, err := hostable(v.Engine, ms)
		return v, present, err
	}
	var past *meta.Engine
	var err error
	if when, perr := time.Parse(time.RFC3339, h.At); perr == nil {
		past, err = v.Engine.At(ctx, when)
	} else {
		past, err = v.Engine.AtSnapshot(ctx, h.At)
	}
	if err != nil {
		return nil, nil, err
	}
	then, err := past.NewSession(ctx, h.Info)
	if err != nil {
		return nil, nil, errors.Join(err, past.Close())
	}
	ms, err := hostable(past, then)
	if err != nil {
		return nil, nil, errors.Join(err, past.Close())
	}
	at := *v
	at.Engine = past
	return &at, &pastSession{ms, past, firstPastSession + pastSessions.Add(1)}, nil
}

// hostable is a session of an engine as the server needs it; one that is not is
// ended.
func hostable(e *meta.Engine, ms meta.Session) (hosted, error) {
	h, ok := ms.(hosted)
	if !ok {
		return nil, errors.Join(fmt.Errorf("sessions of %T cannot be served", e), ms.Close())
	}
	return h, nil
}
