package shared

import (
	"os"
	"path/filepath"
	"testing"
	"strings"
	"fmt"
	"time"
	"github.com/massif-fs/massif/door/fuse"
)

func TestZZ(t *testing.T) {
	c := newCluster(t, 2)
	a, b := c.mount(c.clients[0]), c.mount(c.clients[1])
	var lines []string
	for i, cl := range c.clients {
		cl.server.SetAccessLog(func(x *fuse.Access) {
			lines = append(lines, fmt.Sprint(x.Start.Format("05.000000"), " ", i, " ", fuse.OpName(x.Op), " ", x.Ino, " ", x.Bytes, " ", x.Duration))
		})
	}
	name := "f"
	check(t, os.WriteFile(filepath.Join(a, name), []byte(strings.Repeat("0", 5000)), 0o644))
	there, err := os.OpenFile(filepath.Join(b, name), os.O_RDWR, 0)
	check(t, err)
	here, err := os.OpenFile(filepath.Join(a, name), os.O_RDWR, 0)
	check(t, err)
	for i := range 12 {
		_, err = here.WriteAt([]byte("x"), int64(i))
		check(t, err)
		check(t, here.Sync())
		content(t, there)
	}
	lines = nil
	time.Sleep(20 * time.Millisecond)
	check(t, here.Truncate(3))
	lines = append(lines, "truncated")
	got := content(t, there)
	fmt.Println(len(got))
	for _, l := range lines { fmt.Println(l) }
	there.Close(); here.Close()
}
