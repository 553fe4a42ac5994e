package mount

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/massif-fs/massif/meta"
)

// FuzzServedArgs: whatever a client sends as the arguments of an operation is refused or
// understood, and what may not be done on a shared volume is never let through.
func FuzzServedArgs(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `null`, `[]`, `{}{}`, `{"name":"x"}`, `{"path":"/a"}`, `{"path":"/"}`, `{"path":"a/.."}`, `{"path":"/","bytes":1}`, `{"PATH":"/"}`,
		`{"repair":true}`, `{"data":true,"repair":false}`, `{"grace_ns":0}`, `{"grace_ns":-9223372036854775808}`, `{"grace_ns":86400000000000,"compact":true}`,
		`{"from":"/a","to":"/b","at":"2026-01-01T00:00:00Z"}`, `{"from":"/a","to":"/b","snapshot":"s"}`, `{"file":"/etc/passwd"}`,
	} {
		f.Add([]byte(seed))
	}
	stop := errors.New("decoded")
	f.Fuzz(func(t *testing.T, text []byte) {
		for op := range servedOps {
			run := volumeOps[op]
			if run == nil {
				t.Fatalf("there is no operation %q", op)
			}
			decode := func(into any) error {
				if err := decodeArgs(text)(into); err != nil {
					return err
				}
				if err := new(ServedVolume).refuse(op, into); err != nil {
					return err
				}
				switch a := into.(type) {
				case *FsckArgs:
					if a.Repair {
						t.Error("a repair is let through")
					}
				case *GCArgs:
					if a.Grace != nil && *a.Grace < meta.DefaultGrace {
						t.Errorf("a grace of %v is let through", *a.Grace)
					}
				case *QuotaArgs:
					if isRoot(a.Path) {
						t.Error("a quota of the whole volume is let through")
					}
				case *pathArgs:
					if isRoot(a.Path) {
						t.Error("a quota of the whole volume is let through")
					}
				}
				again, err := json.Marshal(into)
				if err == nil {
					err = decodeArgs(again)(into)
				}
				if err != nil {
					t.Errorf("%s %q: understood as %s: %v", op, text, again, err)
				}
				return stop
			}
			if _, err := run(context.Background(), nil, decode, nil); err == nil {
				t.Errorf("%s %q was done", op, text)
			}
		}
	})
}
