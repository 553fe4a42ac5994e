package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/massif-fs/massif/internal/cmdline"
)

func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write the manual pages into a directory",
		GroupID: "other",
		Long:    `Write a manual page for every command into DIR, which is made if need be.`,
		Example: `  massif man /usr/local/share/man/man1
  man massif-volume-create`,
		Args: exactArgs("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true // the same pages from the same program
			header := &doc.GenManHeader{Title: "MASSIF", Section: "1", Source: "massif " + currentVersion().Version, Manual: "Massif"}
			return doc.GenManTree(root, header, args[0])
		},
	}
}

func (a *app) helpersCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "install-helpers [DIR]",
		Short:   "Let mount(8), umount(8) and fstab know the type massif",
		GroupID: "other",
		Long: `Make links to this program in DIR (default /sbin) under the names that mount(8)
and umount(8) look for: mount.massif, mount.fuse.massif and umount.fuse.massif.
Existing links are replaced, other files are not touched.`,
		Example: `  massif install-helpers
  mount -t massif photos /mnt/photos`,
		Args: cmdline.Args(0, "DIR"),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := "/sbin"
			if len(args) == 1 {
				dir = args[0]
			}
			program, err := os.Executable()
			if err != nil {
				return err
			}
			for _, name := range []string{"mount.massif", "mount.fuse.massif", "umount.fuse.massif"} {
				if err := placeLink(program, filepath.Join(dir, name)); err != nil {
					return err
				}
				fmt.Fprintln(a.out, filepath.Join(dir, name))
			}
			return nil
		},
	}
}

// placeLink makes a symbolic link in one step, in place of an older link only.
func placeLink(program, link string) error {
	if info, err := os.Lstat(link); err == nil && info.Mode()&os.ModeSymlink == 0 {
		return fmt.Errorf("%s exists and is not a link: not touched", link)
	}
	temp := fmt.Sprintf("%s.%d", link, os.Getpid())
	if err := os.Symlink(program, temp); err != nil {
		return err
	}
	if err := os.Rename(temp, link); err != nil {
		os.Remove(temp)
		return err
	}
	return nil
}
