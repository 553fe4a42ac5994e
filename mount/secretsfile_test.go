package mount

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func TestRereadSAS(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	RegisterSecrets("test", func(file string) (*BucketSecrets, error) {
		data, err := os.ReadFile(file)
		if string(data) == "half" {
			return nil, errors.New("no configuration")
		}
		return &BucketSecrets{SAS: string(data)}, err
	})
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	synctest.Test(t, func(t *testing.T) {
		s := &BucketSecrets{SAS: "first", From: &SecretsFile{Program: "test", File: file}}
		creds := s.Options().AzureCredentials
		if creds.SASFunc == nil || creds.SAS != "" {
			t.Fatal("the SAS is a fixed one")
		}
		want := func(sas string) {
			t.Helper()
			time.Sleep(rereadPause)
			if got, err := creds.SASFunc(); got != sas || err != nil {
				t.Errorf("the SAS is %q, %v; want %q", got, err, sas)
			}
		}
		want("first")
		write("the second")
		want("the second")
		write("half") // of a file that is being written
		want("the second")
		write("the third one")
		want("the third one")
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		want("the third one")
	})
	if creds := (&BucketSecrets{SAS: "x"}).Options().AzureCredentials; creds.SASFunc != nil || creds.SAS != "x" {
		t.Error("a SAS from nowhere is read again")
	}
}
