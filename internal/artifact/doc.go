// SPDX-License-Identifier: Apache-2.0

// Package artifact stores files that come from elsewhere (images, kernels,
// initrds, boot programs) and files derived from them. A file is verified
// before any caller sees it, stored once under the SHA-256 digest of its
// content, and shared by all callers that ask for that content, in this process
// and in others that use the same directory.
//
// The package reads only the first bytes of a file to detect its format,
// converts nothing itself, and returns no file without a checksum.
//
// Content stays until the caller removes it: Inventory lists it with the time of its
// last use, Remove removes what was not used since. What to remove is decided elsewhere.
//
// Layout of the store's directory:
//
//	sha256/<hex>      verified content, never modified
//	verified/<hex>    stat data of the content when it was hashed
//	sources/<key>     content that a source resolved to, so that nothing is
//	                  fetched or hashed twice
//	derived/<key>     derived content, with the content it was derived from
//	partial/<key>     resumable downloads and their validators
//	locks/<key>       locks between processes, while they are held
//	tmp/<run>/        scratch files; Open removes those of dead processes
package artifact
