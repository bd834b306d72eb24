// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// envAllowBridge has the names of --allow-bridge, separated by commas, for a manager that
// another program starts.
const envAllowBridge = "PXELAB_ALLOW_BRIDGE"

// bridgeName is what the API accepts as the name of a bridge.
var bridgeName = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,15}$`)

// bridgeFlag adds --allow-bridge, and the bridges that the environment allows.
func bridgeFlag(o *options) error {
	flag.Func("allow-bridge", "name of a bridge to which servers of mode Bridge may attach machines; may be given several times "+
		"(default: those in "+envAllowBridge+", separated by commas)", func(name string) error { return allowBridge(o, name) })
	var errs []error
	for name := range strings.SplitSeq(os.Getenv(envAllowBridge), ",") {
		if name != "" {
			errs = append(errs, allowBridge(o, name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("reading %s: %w", envAllowBridge, err)
	}
	return nil
}

// allowBridge adds a bridge.
func allowBridge(o *options, name string) error {
	if !bridgeName.MatchString(name) {
		return fmt.Errorf("%q is not the name of a network interface, which has 1 to 15 characters; name one bridge at a time", name)
	}
	o.bridges = append(o.bridges, name)
	return nil
}
