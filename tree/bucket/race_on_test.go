//go:build race

package bucket

// underRace: servers are slow enough without; what runs at once is tested over memory.
const underRace = true
