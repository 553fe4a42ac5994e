package kinds

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestHash(t *testing.T) {
	for in, want := range map[string]string{
		`{"type":"local","location":"/data","owner":"0x3333","is-local-owner":true,"read-only":false,"backend-id":"b1","container-path":"/.uuid/c1"}`: "1498022c-39aa-d1fd-9cca-c456cebc5966",
		`{"type":"static","backend-id":"s1","owner":"0xaaaa","content":{"a.txt":"A","d":{"b":"it's"}}}`:                                               "0e58a10e-91fc-097a-5cc7-846afcf62af4",
		`{"type":"local","location":"/zażółć","backend-id":"n1","x":null,"n":3,"f":1.5,"l":["a",1,true,null]}`:                                        "b1d9f07d-da32-14ed-e19b-256533c81caa",
		`{}`: "99914b93-2bd3-7a50-b983-c5e7c90ae93b",
	} {
		p, err := ParseParams(json.RawMessage(in))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Hash(); got != want || err != nil {
			t.Errorf("hash of %s: %s, %v; want %s", in, got, err, want)
		}
	}
}

func TestMistakes(t *testing.T) {
	for in, want := range map[string]string{
		`{}`:             `'type'`,
		`{"type":"zz"}`:  `'zz': no such kind`,
		`{"type":["a"]}`: `a string was expected`,
	} {
		p, err := ParseParams(json.RawMessage(in))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = Make(p, &Env{}); err == nil || !strings.HasPrefix(err.Error(), want) && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
		var key *KeyError
		if strings.HasPrefix(want, "'") && !errors.As(err, &key) {
			t.Errorf("%s: %T", in, err)
		}
	}
	for _, bad := range []string{`[]`, `null`, `"x"`, `{`} {
		if _, err := ParseParams(json.RawMessage(bad)); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

func FuzzParams(f *testing.F) {
	f.Add(`{"type":"local","storage":{"type":"x"},"n":[1,2.5e300,null]}`)
	f.Fuzz(func(t *testing.T, in string) {
		p, err := ParseParams(json.RawMessage(in))
		if err != nil {
			return
		}
		if h, err := p.Hash(); err == nil && len(h) != 36 {
			t.Fatalf("hash of %q is %q", in, h)
		}
		if _, err := Make(p, &Env{}); err == nil {
			t.Fatalf("%q made a storage without any kind", in)
		}
	})
}
