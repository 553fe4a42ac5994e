//go:build !race

package block

const underRace = false
