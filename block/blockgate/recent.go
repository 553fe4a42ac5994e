package blockgate

// recent is a map that forgets: it holds the entries used last, at least limit and
// less than twice as many. Entries are in two generations; one that is used comes
// into the younger one, and when that is full the older one goes. The zero value
// with a limit is ready; the caller locks.
type recent[K comparable, V any] struct {
	limit      int
	young, old map[K]V
}

func (r *recent[K, V]) get(k K) (v V, ok bool) {
	if v, ok = r.young[k]; ok {
		return v, true
	}
	if v, ok = r.old[k]; ok {
		r.put(k, v)
	}
	return v, ok
}

func (r *recent[K, V]) put(k K, v V) {
	if r.young == nil {
		r.young = make(map[K]V)
	}
	r.young[k] = v
	if len(r.young) >= r.limit {
		r.young, r.old = nil, r.young
	}
}

func (r *recent[K, V]) drop(k K) {
	delete(r.young, k)
	delete(r.old, k)
}
