// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"slices"
	"strings"
	"time"
)

// image returns a registered image, or downloads it.
func (x *ipxe) image(ctx context.Context, a ipxeArgs) (*ipxeImage, error) {
	name := a.arg(0)
	if name == "" {
		return nil, errIPXEUsage
	}
	for _, image := range x.images {
		if image.name == name {
			return image, nil
		}
	}
	image, err := x.fetch(ctx, a.flag("name", "n"), x.resolve(name), a.timeout())
	if err != nil {
		return nil, err
	}
	x.images = append(x.images, image)
	return image, nil
}

// load returns a registered image, or downloads it, and sets its arguments.
func (x *ipxe) load(ctx context.Context, a ipxeArgs) (*ipxeImage, error) {
	image, err := x.image(ctx, a)
	if err != nil {
		return nil, err
	}
	image.cmdline = strings.Join(a.args[1:], " ")
	return image, nil
}

func (x *ipxe) imgfetch(ctx context.Context, a ipxeArgs) error {
	_, err := x.load(ctx, a)
	return err
}

func (x *ipxe) kernel(ctx context.Context, a ipxeArgs) error {
	image, err := x.load(ctx, a)
	if err == nil {
		x.selected = image
	}
	return err
}

func (x *ipxe) imgargs(_ context.Context, a ipxeArgs) error {
	for _, image := range x.images {
		if image.name == a.arg(0) {
			image.cmdline = strings.Join(a.args[1:], " ")
			return nil
		}
	}
	return errIPXENoLabel
}

func (x *ipxe) imgfree(_ context.Context, a ipxeArgs) error {
	if len(a.args) == 0 {
		x.images, x.selected = nil, nil
		return nil
	}
	x.images = slices.DeleteFunc(x.images, func(image *ipxeImage) bool { return slices.Contains(a.args, image.name) })
	return nil
}

// imgexec boots the selected image, or the one that is named.
func (x *ipxe) imgexec(ctx context.Context, a ipxeArgs) error {
	if len(a.args) > 0 {
		return x.chain(ctx, a.flag("name", "n"), a.args[0], chainOptions{
			depth: a.depth, replace: a.has("replace", "r"), timeout: a.timeout(), args: strings.Join(a.args[1:], " "),
		})
	}
	if x.selected == nil {
		return errIPXENoLabel
	}
	return x.execute(ctx, x.selected, chainOptions{depth: a.depth, replace: a.has("replace", "r")})
}

type chainOptions struct {
	depth   int
	replace bool
	timeout time.Duration
	args    string
}

// chain downloads an image, unless it is registered, and executes it.
func (x *ipxe) chain(ctx context.Context, name, uri string, o chainOptions) error {
	var image *ipxeImage
	for _, known := range x.images {
		if known.name == uri {
			image = known
		}
	}
	if image == nil {
		var err error
		if image, err = x.fetch(ctx, name, x.resolve(uri), o.timeout); err != nil {
			return err
		}
		image.cmdline = o.args
	}
	return x.execute(ctx, image, o)
}

// execute runs a script or starts a kernel.
func (x *ipxe) execute(ctx context.Context, image *ipxeImage, o chainOptions) error {
	if image.script == nil {
		if image.size == 0 {
			x.g.serial.line("Could not select: %s", errIPXEExec)
			return errIPXEExec
		}
		return bootKernel{cmdline: image.cmdline}
	}
	x.g.serial.line("%s : %d bytes [script]", image.name, image.size)
	if o.replace {
		return errReplace{image}
	}
	return x.run(ctx, image, o.depth+1)
}
