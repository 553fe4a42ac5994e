package block

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"testing"

	"github.com/massif-fs/massif/cache"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/file"
	"github.com/massif-fs/massif/object/mem"
)

const childEnv = "MASSIF_BLOCK_TEST_CHILD"

// runChild runs this binary as the child process of a test, if it was started as
// one: it stages blocks until it is killed, and prints the number of each block
// that is acknowledged.
func runChild() bool {
	dir := os.Getenv(childEnv)
	if dir == "" {
		return false
	}
	var objects object.Store = downStore{mem.New()}
	if name := os.Getenv(childEnv + "_STORE"); name != "" {
		var err error
		if objects, err = file.Open(name, file.Options{Create: true, NoSync: true}); err != nil {
			panic(err)
		}
	}
	first, _ := strconv.Atoi(os.Getenv(childEnv + "_FIRST"))
	budget := cache.NewBudget(64 << 20)
	bufs, err := cache.NewBuffers(budget)
	if err != nil {
		panic(err)
	}
	memory, err := cache.NewMemory(bufs, 0)
	if err != nil {
		panic(err)
	}
	s, err := New(context.Background(), Config{Store: objects, Compression: LZ4, Budget: budget, Buffers: bufs, Memory: memory,
		Stage: &StageConfig{Dir: dir, MaxBytes: 32 << 20}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		panic(err)
	}
	var mu sync.Mutex
	next := ID(first)
	for range 4 {
		go func() {
			for {
				mu.Lock()
				id := next
				next++
				mu.Unlock()
				if err := s.Put(context.Background(), id, childBlock(id)); err != nil {
					panic(err)
				}
				mu.Lock()
				fmt.Println(id)
				mu.Unlock()
			}
		}()
	}
	select {}
}

// childBlock is what the child puts as block id.
func childBlock(id ID) []byte {
	return content(uint64(id), int(id%4), int(id)*7919%200_000+1)
}

// downStore refuses everything.
type downStore struct{ object.Store }

func (d downStore) Put(ctx context.Context, key string, body io.Reader, size int64, opts *object.PutOptions) (object.Info, error) {
	return object.Info{}, &object.Error{Op: "put", Key: key, Err: object.ErrUnavailable}
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	p, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func writeFile(t testing.TB, name string, p []byte) {
	t.Helper()
	if err := os.WriteFile(name, p, 0o600); err != nil {
		t.Fatal(err)
	}
}
