package block

// runChild runs this binary as the child process of a test, if it was started as
// one.
func runChild() bool { return false }
