package cloudfuse

import (
	"slices"
	"strings"
)

// component is a part of Cloudfuse's pipeline. A call goes to the first one, which
// calls the next.
type component struct {
	name string
	// priority must not rise from one component to the next.
	priority int
}

var components = []component{
	{"libfuse", 1000},
	{"stream", 500}, {"block_cache", 500}, {"file_cache", 500}, {"xload", 500}, {"entry_cache", 500},
	{"size_tracker", 400},
	{"attr_cache", 300},
	{"s3storage", 100}, {"azstorage", 100}, {"loopbackfs", 100},
}

// storages are the components at the end of a pipeline.
var storages = []string{"s3storage", "azstorage", "loopbackfs"}

// caches are the components that keep data; at most one of them is in a pipeline.
var caches = []string{"stream", "block_cache", "file_cache", "xload"}

// hasSection tells whether any key of a section was given.
func (s *settings) hasSection(section string) bool {
	for name := range s.values {
		if strings.HasPrefix(name, section+".") {
			return true
		}
	}
	return false
}

// storage is the component of the storage, "" if none is known: that which components
// names, else that of which something is configured.
func (s *settings) storage() string {
	if v, ok := s.values["components"]; ok {
		for _, name := range v.items {
			if slices.Contains(storages, strings.ToLower(name)) {
				return strings.ToLower(name)
			}
		}
	}
	for _, name := range storages {
		if s.hasSection(name) {
			return name
		}
	}
	return ""
}

func (s *settings) s3() bool { return s.storage() == "s3storage" }

// pipeline is the list of components, checked, with what old switches change in it.
func (s *settings) pipeline() []string {
	given := s.list("components")
	var list []string
	for _, name := range given {
		list = append(list, strings.ToLower(strings.TrimSpace(name)))
	}
	if len(list) == 0 {
		storage := s.storage()
		if storage == "" {
			s.fail("components", "neither s3storage nor azstorage is configured")
			return nil
		}
		list = []string{"libfuse", "file_cache", "attr_cache", storage}
	}
	// A cache in the place of the one that is there.
	swap := func(key, name string) {
		if !s.toggle(key, false) {
			return
		}
		at := slices.IndexFunc(list, func(c string) bool { return slices.Contains(caches, c) })
		if at < 0 {
			list = slices.Insert(list, min(1, len(list)), name)
		} else {
			list[at] = name
		}
	}
	swap("streaming", "stream")
	swap("block-cache", "block_cache")
	swap("preload", "xload")
	if s.has("use-attr-cache") {
		at := slices.Index(list, "attr_cache")
		switch on := s.toggle("use-attr-cache", true); {
		case on && at < 0:
			list = slices.Insert(list, len(list)-1, "attr_cache")
		case !on && at >= 0:
			list = slices.Delete(list, at, at+1)
		}
	}
	return s.checkPipeline(list)
}

func (s *settings) checkPipeline(list []string) []string {
	before := 1 << 30
	var data string
	for _, name := range list {
		at := slices.IndexFunc(components, func(c component) bool { return c.name == name })
		if at < 0 {
			s.fail("components", "component %s is not registered", name)
			return nil
		}
		c := components[at]
		if c.priority > before {
			s.fail("components", "component %s is out of order", name)
			return nil
		}
		before = c.priority
		if slices.Contains(caches, name) {
			if data != "" && data != name {
				s.fail("components", "%s and %s cannot be in one pipeline", data, name)
				return nil
			}
			data = name
		}
	}
	if n := len(list); n == 0 || !slices.Contains(storages, list[n-1]) {
		s.fail("components", "the last component is none of %s", strings.Join(storages, ", "))
		return nil
	}
	return list
}
