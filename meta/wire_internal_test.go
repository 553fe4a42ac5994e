package meta

import "testing"

// OverTheWire, if not nil, begins a session with an engine through a metadata
// server (see wire_test.go).
var OverTheWire func(t testing.TB, e *Engine, info SessionInfo) Session

// newSession begins a session for a test.
func newSession(t testing.TB, e *Engine, info SessionInfo) Session {
	t.Helper()
	if OverTheWire != nil {
		return OverTheWire(t, e, info)
	}
	s, err := e.NewSession(bg, info)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
