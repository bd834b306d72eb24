// SPDX-License-Identifier: Apache-2.0

// Package imagestream implements the format in which a disk image is transferred
// to a machine during installation: only the bytes that are not zero, in
// independent zstd frames, after an index that binds every frame to one digest.
//
// A blob consists of
//
//	header   64 bytes: magic, version, sizes
//	index    64 bytes per frame: chunk of the disk, size, BLAKE3, xxHash64
//	frames   one zstd frame per chunk of the disk that contains data
//
// All integers are little endian. The disk is divided into chunks of equal size;
// a chunk that is all zero has no frame. A frame decompresses to the data of its
// extents in order, followed by the table of the extents (offset and length in
// the chunk, 32 bits each). Extents start and end on 4 KiB boundaries, so that
// the data keeps the alignment that O_DIRECT requires.
//
// Header.Digest (SHA-256 of header and index) is the digest that a manager pins.
// The reader verifies it before it parses the index, and verifies the BLAKE3 of a
// frame before it decompresses the frame, so that no unverified data reaches zstd
// or a disk. It uses BLAKE3 because the decoder runs in emulated guests without
// SHA instructions, where BLAKE3 is two to three times as fast as SHA-256. With
// the xxHash64 of each frame's decompressed data, which is cheap to compute, the
// installer can read back the disk and compare; the pinned digest also covers it.
//
// An interrupted transfer can resume at any frame, see Reader.Offset.
//
// The package does not download images or write to disks, and does not clear the
// parts of a disk that an image leaves out: the caller must ensure that the rest
// of the disk reads as zeros.
package imagestream
