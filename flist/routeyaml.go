package flist

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"
)

// maxRouterYAML bounds a router.yaml, in bytes.
const maxRouterYAML = 1 << 20

// parseRouterYAML reads the file router.yaml of version 1:
//
//	pools:  {NAME: {RANGE: URL, …}, …}
//	lookup: [NAME, …]
//	cache:  [NAME, …]
//
// RANGE is a prefix of block ids in hexadecimal, or START:END of equal length. What
// cache says is not used: blocks are cached on this machine.
func parseRouterYAML(data []byte) (Routes, error) {
	if len(data) > maxRouterYAML {
		return nil, badImage("router.yaml has %d bytes", len(data))
	}
	for _, t := range lexer.Tokenize(string(data)) {
		if t.Type == token.AnchorType || t.Type == token.AliasType || t.Type == token.MergeKeyType {
			// A few bytes of them can unfold into gigabytes.
			return nil, badImage("router.yaml has anchors or aliases")
		}
	}
	var file struct {
		Pools  map[string]map[string]string `yaml:"pools"`
		Lookup []string                     `yaml:"lookup"`
		Cache  []string                     `yaml:"cache"`
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		return nil, badImage("router.yaml is not well formed")
	}
	var routes Routes
	for i, name := range file.Lookup {
		pool, ok := file.Pools[name]
		if !ok {
			return nil, badImage("router.yaml looks into pool %.40q, which it does not have", name)
		}
		for span, url := range pool {
			start, end, err := parseRange(span)
			if err != nil {
				return nil, err
			}
			routes = append(routes, Route{Pool: i, Start: start, End: end, URL: url})
		}
		if len(routes) > maxRoutes {
			return nil, badImage("router.yaml names more than %d stores", maxRoutes)
		}
	}
	if len(routes) == 0 {
		return nil, badImage("router.yaml names no store")
	}
	return routes, nil
}

func parseRange(s string) (start, end []byte, err error) {
	from, to, ok := strings.Cut(s, ":")
	if !ok {
		to = from
	}
	if len(from) != len(to) || from == "" || len(from) > 32 {
		return nil, nil, badImage("%.40q in router.yaml is no range of blocks", s)
	}
	if len(from)%2 == 1 {
		from, to = from+"0", to+"0"
	}
	if start, err = hex.DecodeString(from); err == nil {
		end, err = hex.DecodeString(to)
	}
	if err != nil {
		return nil, nil, badImage("%.40q in router.yaml is no range of blocks", s)
	}
	return start, end, nil
}

// formatRouterYAML writes what parseRouterYAML reads.
func formatRouterYAML(routes Routes) ([]byte, error) {
	pools := map[string]map[string]string{}
	var lookup []string
	for _, r := range routes {
		name := fmt.Sprintf("pool%d", r.Pool)
		if pools[name] == nil {
			pools[name] = map[string]string{}
			lookup = append(lookup, name)
		}
		span := fmt.Sprintf("%X:%X", r.Start, r.End)
		if _, twice := pools[name][span]; twice {
			return nil, fmt.Errorf("version 1 has room for one store only in a range: %s is given twice", span)
		}
		pools[name][span] = r.URL
	}
	return yaml.Marshal(map[string]any{"pools": pools, "lookup": lookup})
}
