// Massif makes any storage a POSIX file system, and any number of them one tree.
package main

import (
	"os"

	"github.com/massif-fs/massif/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args)) }
