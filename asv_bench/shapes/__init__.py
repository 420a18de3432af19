"""The benchmarks' shapes, one CSV per family; installed as gradroute.bench.shapes.

conv.csv holds the layers of ResNet-50, MobileNet (with its depthwise layers), AlexNet, LeNet, a
digits and a CIFAR network, one dilated and one grouped layer; pool.csv the max-pools of the same
networks.  The layer sizes are those of oneDNN's benchdnn input sets, the batch made small enough
for two cores; stride, padding and dilation are the same on both axes.  linear.csv holds fully
connected layers (x (N, in) -> y (N, out)), matmul.csv products a (B, I, L) @ b (B, L, J), and
scatter.csv additions of src (count, inner) to the indexed rows of out (rows, inner); inner 0
stands for scalars.

others/ holds layers that none of the kernels was made for, in files of the same names.  Its
conv.csv: VGG, ResNeXt, DenseNet, SqueezeNet, GoogLeNet, Inception, MobileNet V2 and V3,
EfficientNet, ShuffleNet, ConvNeXt, a vision transformer's patches, U-Net, DeepLab, DCGAN, small
networks for MNIST and CIFAR, sizes that are multiples of nothing.  They are run by name only:
``compare.py --shapes asv_bench/shapes/others/conv.csv``.
"""
