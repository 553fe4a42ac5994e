//go:build !race

package bucket

const underRace = false
