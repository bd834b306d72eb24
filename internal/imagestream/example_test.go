// SPDX-License-Identifier: Apache-2.0

package imagestream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pxelab/pxelab/internal/imagestream"
)

// Write a sparse image as a stream, then open the stream and read the data.
func ExampleNewReader() {
	image := make([]byte, 8<<20)
	copy(image[4<<20:], "hello")

	dir, err := os.MkdirTemp("", "imagestream")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file, err := os.Create(filepath.Join(dir, "image"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = file.Close() }()
	header, err := imagestream.Write(context.Background(), file, bytes.NewReader(image), int64(len(image)), imagestream.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}

	// The manager pins the digest; the installer opens the stream with it.
	reader, err := imagestream.NewReader(file, header.Digest())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer reader.Close()
	for {
		chunk, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		for _, s := range chunk.Segments {
			fmt.Printf("%d bytes at %d: %s\n", len(s.Data), s.Offset, s.Data[:5])
		}
		chunk.Release()
	}
	// Output:
	// 4096 bytes at 4194304: hello
}
