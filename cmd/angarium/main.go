// Command angarium is every program that needs no special rights, under the
// name it is called by: bin/ holds hard links to it. Called by its own name it
// takes the program's name as the first argument.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"angarium/cmd/standin"
	"angarium/lib/cli"
)

func main() {
	c := cli.FromOS()
	if c.Name == "angarium" {
		if len(c.Args) == 0 {
			usage()
			os.Exit(cli.Usage)
		}
		c.Name, c.Path, c.Args = filepath.Base(c.Args[0]), c.Args[0], c.Args[1:]
	}
	entry, ok := commands[c.Name]
	if !ok && standin.Is(c.Name) {
		entry, ok = standin.Main, true
	}
	if !ok {
		fmt.Fprintf(os.Stderr, "angarium: no such program: %s\n", c.Name)
		os.Exit(cli.Usage)
	}
	os.Exit(cli.Run(context.Background(), c, entry))
}

// usage lists the names; the Makefile makes the links from this list.
func usage() {
	names := make([]string, 0, len(commands))
	for name := range commands {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Println(name)
	}
}
