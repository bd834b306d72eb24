// SPDX-License-Identifier: Apache-2.0

package netbootapi

// maxVersion is the length limit of a version that is shown, in bytes.
const maxVersion = 64

// ShownVersion returns the reported Version, or "" if it is longer than 64 bytes
// or contains anything but printable ASCII: netbootd runs in a guest, whose
// values are not trusted.
func (s State) ShownVersion() string {
	if len(s.Version) > maxVersion {
		return ""
	}
	for i := range len(s.Version) {
		if c := s.Version[i]; c < ' ' || c > '~' {
			return ""
		}
	}
	return s.Version
}
